"""Names of the project and statements about its model: the table `[tool.mlops]` in pyproject.toml."""

import functools
import re
import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from src.mlops import ROOT
from src.mlops.errors import ConfigError, describe

PYPROJECT = ROOT / "pyproject.toml"  # also part of the container images


def _on_one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"must be one line of printable characters, but is {text!r}")
    return text


def _usable_in_tags(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?", name):
        raise ValueError(
            "must be 1 to 63 lower-case letters a to z, digits, hyphens and underscores, with a letter or digit at the "
            f"start and the end, but is {name!r}"
        )
    return name


def _text(longest: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=longest, strict=True)


Name = Annotated[str, _text(100), AfterValidator(_on_one_line)]
Statement = Annotated[str, _text(5000)]


class Project(BaseModel):
    """The table `[tool.mlops]`.

    Attributes:
        title: Name of the project, such as `German traffic signs`: title of the API and of the model card.
        registry: Name of the model in the registry, in its Git tags, in W&B and in BentoML, such as `gtsrb`.
        page_title: Title of the web page.
        image_title: What one image shows, in the singular and in lower case, such as `sign`.
        description: One sentence for the API documentation.
        intended_use: Intended use of the model and its limits, Markdown.
        data_source: Who recorded the images, when and how, Markdown.
        personal_data: Whether images show people or anything else that identifies them, Markdown.
        licence: Licence of the images, Markdown.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Name
    registry: Annotated[str, AfterValidator(_usable_in_tags)]
    page_title: Name
    image_title: Name
    description: Annotated[str, _text(1000), AfterValidator(_on_one_line)]
    intended_use: Statement | None = None
    data_source: Statement | None = None
    personal_data: Statement | None = None
    licence: Statement | None = None


@functools.cache
def load_project() -> Project:
    """Returns the names of this project. The file is read once.

    Raises:
        ConfigError: The file cannot be read, or the table is missing or invalid.
    """
    return read_project(PYPROJECT)


def read_project(path: Path) -> Project:
    """Reads the table `[tool.mlops]` of a pyproject.toml.

    Raises:
        ConfigError: The file cannot be read, or the table is missing or invalid.
    """
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool")
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the names of the project from {path}: {error}.") from error
    table = tool.get("mlops") if isinstance(tool, dict) else None
    if table is None:
        raise ConfigError(
            f"{path} has no table [tool.mlops], which has the names of the project. Add it as described under Names of "
            "the project in docs/how-to/start-a-project.md."
        )
    try:
        return Project.model_validate(table)
    except ValidationError as error:
        raise ConfigError(
            f"The table [tool.mlops] in {path} is not valid: {'; '.join(describe(error))}. Names of the project in "
            "docs/how-to/start-a-project.md explains the keys."
        ) from error
