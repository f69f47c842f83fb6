"""The environment variables of the two services."""

from pydantic_settings import BaseSettings

from src.mlops.io.markdown import table as markdown_table
from src.mlops.serving.settings import DriftSettings, Settings


def service() -> str:
    """Returns a table of the variables of the service."""
    return _table("MLOPS_", Settings)


def drift_service() -> str:
    """Returns a table of the variables of the drift service."""
    return _table("MLOPS_DRIFT_", DriftSettings)


def _table(prefix: str, settings: type[BaseSettings]) -> str:
    rows = []
    for name, field in settings.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default}`" if field.default else "unset"
        rows.append([f"`{prefix}{name.upper()}`", default, field.description or ""])
    return markdown_table("variable|default|meaning", rows)
