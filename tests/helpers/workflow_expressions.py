"""Evaluates the expressions of GitHub Actions, `${{ … }}` and `if:`, and rejects values that do not exist."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>\d+)|(?P<name>[A-Za-z_][\w.-]*)|(?P<sign>&&|\|\||==|!=|[!(),]))"
)
_SIGNS = {"&&": " and ", "||": " or ", "!": " not "}
_WORDS = {"true": "True", "false": "False", "null": "None"}
STATUS = ("success", "failure", "always", "cancelled")  # an `if:` without one of these also needs success


class Expressions:
    """Evaluates expressions with the contexts of one step.

    Args:
        contexts: Values of `github`, `env`, `vars` and so on.
        failed: Whether a job before this one has failed.
        blocked: Whether a job before this one was skipped, so that `success()` is false.
    """

    def __init__(self, contexts: Mapping[str, Any], *, failed: bool = False, blocked: bool = False) -> None:
        self.contexts = contexts
        self.functions: dict[str, Callable[..., Any]] = {
            "success": lambda: not failed and not blocked,
            "failure": lambda: failed,
            "always": lambda: True,
            "cancelled": lambda: False,
            "startsWith": lambda text, start: str(text).startswith(start),
            "contains": lambda whole, part: part in whole,
            "fromJSON": json.loads,
            "hashFiles": lambda *patterns: "hash-of-files",
        }

    def fill(self, text: Any) -> str:
        """Replaces all expressions in a text."""
        return re.sub(
            r"\$\{\{(.*?)\}\}", lambda match: self._text(self.value(match[1])), self._text(text), flags=re.DOTALL
        )

    def condition(self, text: Any) -> bool:
        """Returns the value of an `if:`."""
        if text is None:
            return bool(self.functions["success"]())
        bare = re.sub(r"^\s*\$\{\{(.*)\}\}\s*$", r"\1", str(text), flags=re.DOTALL)
        value = bool(self.value(bare))
        return value and (any(f"{name}(" in bare for name in STATUS) or bool(self.functions["success"]()))

    def value(self, expression: str) -> Any:
        """Returns the value of an expression."""
        code, place = "", 0
        while expression[place:].strip():
            token = _TOKEN.match(expression, place)
            assert token, f"cannot read the expression {expression!r} from {expression[place:]!r}"
            place = token.end()
            if token["text"]:
                code += repr(token["text"][1:-1].replace("''", "'"))
            elif token["name"] and token["name"] not in _WORDS:
                called = expression[place:].lstrip().startswith("(")
                assert not called or token["name"] in self.functions, f"unknown function {token['name']}"
                code += f"functions[{token['name']!r}]" if called else f"look_up({token['name']!r})"
            else:
                code += _WORDS.get(token[0].strip(), _SIGNS.get(token[0].strip(), token[0]))
        return eval(code.strip(), {"functions": self.functions, "look_up": self._look_up, "__builtins__": {}})

    def _look_up(self, name: str) -> Any:
        value: Any = self.contexts
        for part in name.split("."):
            optional = name.startswith("github.event.")
            assert optional or part in (value or {}), f"the expression {name!r} has no value: there is no {part!r}"
            value = value.get(part, {}) if isinstance(value, Mapping) else ""
        return value

    @staticmethod
    def _text(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return "" if value is None or value == {} else str(value)
