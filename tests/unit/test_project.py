"""The names of the project in pyproject.toml, and where they must be the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from src.mlops import ROOT
from src.mlops.errors import ConfigError
from src.mlops.project import PYPROJECT, Project, load_project, read_project

VALID = {
    "title": "Screws",
    "registry": "screws",
    "page_title": "Which screw is this?",
    "image_title": "screw",
    "description": "Classifies screws.",
}


def written(folder: Path, **changes: object) -> Path:
    """Writes a pyproject.toml. A value None leaves a key out."""
    table = {key: value for key, value in (VALID | changes).items() if value is not None}
    lines = [f"{key} = '''{value}'''" if isinstance(value, str) else f"{key} = {value}" for key, value in table.items()]
    path = folder / "pyproject.toml"
    path.write_text("\n".join(["[project]", 'name = "x"', "[tool.mlops]", *lines]), encoding="utf-8")
    return path


def test_the_table_of_this_repository_has_only_known_keys() -> None:
    assert set(tomllib.loads(PYPROJECT.read_text())["tool"]["mlops"]) <= set(Project.model_fields)


@pytest.mark.parametrize("text", ["إشارات المرور", "交通標識", 'a "b" <i> & $c {d}', "x" * 100])
def test_names_can_be_in_any_language(text: str, tmp_path: Path) -> None:
    project = read_project(written(tmp_path, title=text, page_title=f"  {text}  ", intended_use="one\n\ntwo"))
    assert (project.title, project.page_title, project.intended_use) == (text, text, "one\n\ntwo")
    assert project.licence is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, r"\[tool\.mlops\] in .*pyproject\.toml.*title: this key is missing"),
        ({"page_title": "  "}, "page_title: .*at least 1 character"),
        ({"image_title": "two\nlines"}, r"image_title: must be one line of printable characters, but is 'two\\nlines'"),
        ({"title": "\u202egnp.exe"}, "title: must be one line of printable characters"),
        ({"title": "x" * 101}, "title: .*at most 100 characters"),
        ({"title": 7}, "title: .*string, but is 7"),
        ({"intended_use": ""}, "intended_use: .*at least 1 character"),
        ({"author": "Me"}, "author: this key does not exist"),
        ({"registry": "My Screws"}, r"registry: must be 1 to 63 lower-case .*, but is 'My Screws'"),
        ({"registry": "a@b"}, "'a@b'"),
        ({"registry": "../x"}, r"'\.\./x'"),
        ({"registry": "-x"}, "'-x'"),
        ({"registry": "ü"}, "'ü'"),
        ({"registry": ""}, "but is ''"),
    ],
)
def test_invalid_names(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_project(written(tmp_path, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"Cannot read .*pyproject\.toml: .*No such file"),
        (b"[tool", r"Cannot read .*pyproject\.toml: "),
        (b"\xff", r"Cannot read .*pyproject\.toml: "),
        (b"[project]\nname = 'x'", r"pyproject\.toml has no table \[tool\.mlops\].*docs/how-to/start-a-project\.md"),
        (b"tool = 1", r"pyproject\.toml has no table \[tool\.mlops\]"),
        (b"[tool]\nmlops = 'x'", r"\[tool\.mlops\] in .*pyproject\.toml"),
    ],
)
def test_unusable_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_project(path)


@pytest.mark.parametrize("kind", ["api", "train", "drift"])
def test_container_images_have_the_file_where_it_is_read(kind: str) -> None:
    """The file is in /app/pyproject.toml, next to /app/src, and every user can read it."""
    final = (ROOT / f"dockerfiles/Dockerfile.{kind}").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^WORKDIR /app$", final, re.MULTILINE)
    for name in ("src", "pyproject.toml"):
        assert re.search(rf"^COPY --from=source /app/{re.escape(name)} {re.escape(name)}$", final, re.MULTILINE)
    assert re.search(r"chmod -R a\+rX .*pyproject\.toml", (ROOT / f"dockerfiles/Dockerfile.{kind}").read_text())
    assert "!pyproject.toml" in (ROOT / ".dockerignore").read_text().splitlines()
    assert PYPROJECT.parent == Path(__file__).parents[2]


def test_the_documentation_lists_every_key() -> None:
    document = (ROOT / "docs/how-to/start-a-project.md").read_text()
    for name, field in Project.model_fields.items():
        assert f"| `{name}` | {'' if field.is_required() else 'optional: '}" in document


def test_workflows_start_for_the_tags_of_the_registry() -> None:
    """Workflows cannot read pyproject.toml. Change the name there as well."""
    name = load_project().registry
    text = (ROOT / ".github/workflows/model-registry-change.yaml").read_text()
    assert yaml.safe_load(text)[True]["push"]["tags"] == [f"{name}@v*", f"{name}#*"]  # YAML reads `on` as true
    collected = (ROOT / ".github/workflows/collect.yaml").read_text()
    assert set(re.findall(r"tag --list '(.*?)' '(.*?)'", collected)) == {(f"{name}@v*", f"{name}#staging#*")}
