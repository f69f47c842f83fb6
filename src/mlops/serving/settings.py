"""The settings of the service, all of them; docs/serving.md shows them as a table."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.mlops.inference import LATEST

NO_MODEL = "none"


class Settings(BaseSettings):
    """Settings of the service: environment variables with the prefix `MLOPS_`, or options of the command line."""

    model_config = SettingsConfigDict(
        env_prefix="MLOPS_", env_ignore_empty=True, cli_kebab_case=True, cli_prog_name="python -m src.mlops.api"
    )

    model: Annotated[str, Field(description="model file; latest: what training made last; none")] = LATEST
    host: Annotated[str, Field(description="address to listen on; 0.0.0.0 is all of the machine")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 8000
    workers: Annotated[int, Field(ge=1, le=64, description="processes that answer; as many as cores is fastest")] = 1
    queue_size: Annotated[int, Field(ge=1, description="pictures that may wait in a process; beyond it 503")] = 256
    micro_batch: Annotated[
        int, Field(ge=1, le=64, description="most waiting pictures that run through the network at once")
    ] = 16
    max_upload_bytes: Annotated[int, Field(ge=1, description="largest picture in bytes")] = 5 * 1024 * 1024
    max_batch_files: Annotated[int, Field(ge=1, description="most pictures of one batch request")] = 64
    max_batch_bytes: Annotated[int, Field(ge=1, description="largest batch request in bytes")] = 32 * 1024 * 1024
    api_keys: Annotated[
        SecretStr | None,
        Field(description="keys, separated by commas, one of which the header X-API-Key must hold; unset: open to all"),
    ] = None
    admin_token: Annotated[
        SecretStr | None, Field(description="bearer token of /admin/reload; unset: nobody may reload by request")
    ] = None
    cors_origins: Annotated[
        str, Field(description="origins, separated by commas, whose pages may ask the service; empty: none")
    ] = ""
    log_format: Annotated[Literal["text", "json"], Field(description="json is in the shape of Cloud Logging")] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="info tells of refused requests, debug of every one"),
    ] = "info"

    def as_environment(self) -> dict[str, str]:
        """Returns the variables that make the same settings in another process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            f"MLOPS_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @field_validator("api_keys", "admin_token")
    @classmethod
    def _usable(cls, given: SecretStr | None) -> SecretStr | None:
        # A value that is set but empty, such as "${KEY_A},${KEY_B}" with both unset, must not open the service.
        if given is not None and not (cls.listed(given) and given.get_secret_value().isascii()):
            raise ValueError("expected keys of ASCII characters, found none; leave it unset to do without")
        return given

    @staticmethod
    def listed(value: str | SecretStr | None) -> list[str]:
        """Splits a value with commas."""
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        return [entry.strip() for entry in plain.split(",") if entry.strip()]
