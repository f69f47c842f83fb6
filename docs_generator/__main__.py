"""Writes the generated parts of docs/: `python -m docs_generator`.

It replaces all text between `<!-- generated: NAME -->` and `<!-- end -->`, and writes the diagrams of the architecture.
"""

import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from docs_generator import architecture, commands, configuration, http_api, metrics, overview, python_api, variables
from src.mlops import ROOT
from src.mlops.io.files import write_atomically

DOCS = ROOT / "docs"
DIAGRAM = DOCS / "images/architecture.svg"
OVERVIEW = DOCS / "images/overview.svg"
_PLACE = re.compile(r"(<!-- generated: ([\w. -]+) -->\n).*?(<!-- end -->)", re.DOTALL)

PARTS: dict[str, Callable[[], str]] = {
    "tasks": commands.tasks,
    "commands with a configuration": commands.with_configuration,
    "commands with options": commands.with_options,
    "configuration": configuration.configuration,
    "routes": http_api.routes,
    "schemas": http_api.schemas,
    "service variables": variables.service,
    "drift service variables": variables.drift_service,
    "service metrics": metrics.service,
    "alerts": metrics.alerts,
    "recording rules": metrics.recording_rules,
    "architecture": architecture.table,
    **{f"python {package}": partial(python_api.package, package) for package in python_api.packages()},
}


def documents() -> list[Path]:
    """Returns all pages of the site."""
    return sorted(DOCS.rglob("*.md"))


def render(text: str) -> str:
    """Returns a page with its generated parts replaced by the current ones.

    Raises:
        KeyError: The page names a part that does not exist.
    """
    return _PLACE.sub(lambda found: f"{found[1]}\n{_part(found[2])}\n{found[3]}", text)


@cache
def _part(name: str) -> str:
    return PARTS[name]()


def main() -> None:
    """Writes all pages whose generated parts have changed, and the diagrams."""
    for page in documents():
        text = page.read_text(encoding="utf-8")
        if (rendered := render(text)) != text:
            write_atomically(page, rendered.encode())
            sys.stdout.write(f"{page.relative_to(ROOT)}\n")
    write_atomically(DIAGRAM, architecture.diagram().encode())
    write_atomically(OVERVIEW, overview.overview().encode())


if __name__ == "__main__":
    main()
