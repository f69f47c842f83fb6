"""All settings of the service. docs/serving.md lists them in a table."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.mlops.modelfile.locate import LATEST

NO_MODEL = "none"


class Settings(BaseSettings):
    """Settings of the service, read from environment variables with the prefix `MLOPS_`. Some are also options."""

    model_config = SettingsConfigDict(env_prefix="MLOPS_", env_ignore_empty=True)

    model: Annotated[str, Field(description="model file; latest: last trained model; none: no model")] = LATEST
    host: Annotated[str, Field(description="address to listen on; 0.0.0.0: all interfaces")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="port to listen on")] = 8000
    workers: Annotated[
        int,
        Field(
            ge=1,
            le=64,
            description="number of processes; for the highest throughput, set it to the number of CPU cores",
        ),
    ] = 1
    queue_size: Annotated[
        int, Field(ge=1, description="maximum number of queued images per process; more are rejected with 503")
    ] = 256
    micro_batch: Annotated[
        int, Field(ge=1, le=64, description="maximum number of queued images in a micro-batch; 1: no micro-batching")
    ] = 16
    max_upload_bytes: Annotated[int, Field(ge=1, description="maximum size of an image in bytes")] = 5 * 1024 * 1024
    max_batch_files: Annotated[int, Field(ge=1, description="maximum number of images per batch request")] = 64
    max_batch_bytes: Annotated[int, Field(ge=1, description="maximum size of a batch request in bytes")] = (
        32 * 1024 * 1024
    )
    api_keys: Annotated[
        SecretStr | None,
        Field(description="valid values of the header X-API-Key, separated by commas; unset: no key is required"),
    ] = None
    admin_token: Annotated[
        SecretStr | None, Field(description="bearer token for /admin/reload; unset: /admin/reload is disabled")
    ] = None
    cors_origins: Annotated[
        str, Field(description="origins of web pages that can call the service, separated by commas; empty: none")
    ] = ""
    log_format: Annotated[
        Literal["text", "json"], Field(description="text or json; json is the format of Cloud Logging")
    ] = "text"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="debug, info, warning or error; info logs rejected requests, debug logs all requests"),
    ] = "info"

    def as_environment(self) -> dict[str, str]:
        """Returns the environment variables that pass these settings to another process."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            f"MLOPS_{name.upper()}": value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }

    @field_validator("api_keys", "admin_token")
    @classmethod
    def _usable(cls, given: SecretStr | None) -> SecretStr | None:
        # A value without keys, such as "${KEY_A},${KEY_B}" with both unset, must not disable the check of keys.
        if given is not None and not (cls.listed(given) and given.get_secret_value().isascii()):
            raise ValueError("must contain at least one key, in ASCII characters only; leave it unset to use no key")
        return given

    @staticmethod
    def listed(value: str | SecretStr | None) -> list[str]:
        """Splits a value at its commas and drops empty entries."""
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        return [entry.strip() for entry in plain.split(",") if entry.strip()]
