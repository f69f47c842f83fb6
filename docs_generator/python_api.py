"""The reference of the Python packages: the modules that mkdocstrings documents, one page per package."""

import ast
from pathlib import Path

from src.mlops import ROOT

SOURCE = ROOT / "src/mlops"
TOP = "mlops"  # the page of the modules directly in src/mlops


def packages() -> list[str]:
    """Returns the names of the packages, first that of the modules without a package."""
    return [TOP, *sorted(path.parent.name for path in SOURCE.glob("*/__init__.py"))]


def package(name: str) -> str:
    """Returns a directive for mkdocstrings for each module with public names."""
    folder = SOURCE if name == TOP else SOURCE / name
    paths = sorted(folder.glob("*.py") if name == TOP else folder.rglob("*.py"))
    modules = [_module(path) for path in paths if path.stem != "__main__" and _has_public_names(path)]
    return "\n\n".join(f"::: {module}" for module in modules) + "\n"


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _has_public_names(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)
