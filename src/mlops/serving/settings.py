"""All settings of the service. docs/reference/service-settings.md lists them in a table."""

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from limits import parse_many
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from src.mlops.modelfile.locate import LATEST
from src.mlops.monitoring.prediction_log import LogOptions

NO_MODEL = "none"
MAX_HEADER_BYTES = 16 * 1024  # of the request line and all headers


Port = Annotated[int, Field(ge=1, le=65535, description="port to listen on")]


class ServerSettings(BaseSettings):
    """Settings that the service and the drift service share."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it can contain keys, and uvicorn logs the error
    )

    host: Annotated[str, Field(description="address to listen on; 0.0.0.0: all interfaces")] = "127.0.0.1"
    port: Port = 8000
    root_path: Annotated[str, Field(description="path of the service behind a proxy, such as /signs; empty: none")] = ""
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
            f"{self.model_config['env_prefix']}{name.upper()}": value.get_secret_value()
            if isinstance(value, SecretStr)
            else str(value)
            for name, value in values.items()
            if value is not None
        }

    @field_validator("root_path")
    @classmethod
    def _path(cls, given: str) -> str:
        if not re.fullmatch(r"(/[\w.~/-]*[\w.~-])?", given):
            raise ValueError(f"must start with a slash and not end with one, such as /signs, but is {given!r}")
        return given

    @field_validator("log_url", check_fields=False)
    @classmethod
    def _supported(cls, given: str) -> str:
        if "://" in given and not re.fullmatch(r"gs://[\w.-]+(/.*)?", given):
            raise ValueError(f"must be a folder, or a URL such as gs://bucket/folder, but is {given!r}")
        return given

    @field_validator("api_keys", "admin_token", "token", "github_token", check_fields=False)
    @classmethod
    def _usable(cls, given: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        # A value without keys, such as "${KEY_A},${KEY_B}" with both unset, must not disable the check of keys.
        if given is not None and not (cls.listed(given) and given.get_secret_value().isascii()):
            needed = cls.model_fields[str(info.field_name)].is_required()
            hint = "" if needed else "; leave it unset to use no key"
            raise ValueError(f"must contain at least one key, in ASCII characters only{hint}")
        return given

    @staticmethod
    def listed(value: str | SecretStr | None) -> list[str]:
        """Splits a value at its commas and drops empty entries."""
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
        return [entry.strip() for entry in plain.split(",") if entry.strip()]


class DriftSettings(ServerSettings):
    """Settings of the drift service, read from environment variables with the prefix `MLOPS_DRIFT_`."""

    model_config = SettingsConfigDict(env_prefix="MLOPS_DRIFT_")

    log_url: Annotated[str, Field(min_length=1, description="prediction log: folder or gs:// URL")]
    token: Annotated[SecretStr, Field(description="bearer token for all routes but /health/live and /metrics")]
    model: Annotated[str, Field(description="model file; latest: last trained model")] = LATEST
    port: Port = 8002
    github_repository: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][\w-]*/[\w.-]+$",
            description="owner/name of the repository whose workflow `retrain` alerts start; unset: they start nothing",
        ),
    ] = None
    github_token: Annotated[
        SecretStr | None,
        Field(description="fine-grained token for this repository only, with `Actions: read and write`"),
    ] = None
    github_api: Annotated[
        str,
        Field(
            pattern=r"^(https://|http://127\.0\.0\.1:)[\w.:/-]*\w$",
            description="API of GitHub; another one for GitHub Enterprise",
        ),
    ] = "https://api.github.com"
    retrain_hours: Annotated[
        float, Field(ge=0, le=720, description="hours in which alerts start at most one retraining, 0 to 720")
    ] = 12.0

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.github_repository is None) != (self.github_token is None):
            raise ValueError(
                "MLOPS_DRIFT_GITHUB_REPOSITORY and MLOPS_DRIFT_GITHUB_TOKEN belong together, but only one of them is "
                "set. Set both, or none to start no retraining"
            )
        return self


class Settings(ServerSettings):
    """Settings of the service, read from environment variables with the prefix `MLOPS_`. Some are also options."""

    model_config = SettingsConfigDict(env_prefix="MLOPS_")

    model: Annotated[
        str,
        Field(
            description="model file; latest: last trained model; production: promoted version, or the bundled model "
            "while none was ever promoted; none: no model"
        ),
    ] = LATEST
    allow_other_classes: Annotated[
        bool, Field(description="whether a model with other classes can replace the loaded one without a restart")
    ] = False
    shadow_model: Annotated[
        str,
        Field(
            description="candidate that answers the same images for comparison, when the service is idle: model file "
            "or registered version; staging: promoted version; empty: none"
        ),
    ] = ""
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
        SecretStr | None, Field(description="bearer token for /admin/reload and /review; unset: both are disabled")
    ] = None
    rate_limit: Annotated[
        str,
        Field(description="requests per client and worker, such as 100/minute or 10/second; 500/hour; empty: no limit"),
    ] = ""
    trusted_proxies: Annotated[
        str,
        Field(description="addresses of proxies whose header X-Forwarded-For is trusted, separated by commas; *: all"),
    ] = ""
    cors_origins: Annotated[
        str, Field(description="origins of web pages that can call the service, separated by commas; empty: none")
    ] = ""
    log_url: Annotated[
        str, Field(description="prediction log: folder or gs:// URL; empty: predictions are not recorded")
    ] = ""
    log_flush_seconds: Annotated[
        float,
        Field(ge=0.1, le=60, description="prediction log: seconds of records that are lost if a process is killed"),
    ] = 2.0
    log_segment_seconds: Annotated[
        float, Field(ge=1, le=3600, description="prediction log: seconds until a file is closed, and uploaded to gs://")
    ] = 60.0
    log_spool: Annotated[
        str,
        Field(description="prediction log: folder for files that are not uploaded yet; empty: a temporary folder"),
    ] = ""
    log_spool_bytes: Annotated[
        int, Field(ge=1024 * 1024, description="prediction log: maximum size of this folder; the oldest files go first")
    ] = 32 * 1024 * 1024
    log_images: Annotated[
        float,
        Field(ge=0, le=1, description="prediction log: share of the images to store, 0 (none) to 1, uncertain first"),
    ] = 0.0
    log_image_days: Annotated[
        int, Field(ge=1, description="prediction log: days after which stored images are deleted")
    ] = 30
    log_image_bytes: Annotated[
        int, Field(ge=1024 * 1024, description="prediction log: maximum size of all stored images together")
    ] = 1024**3

    log_review_days: Annotated[
        int, Field(ge=1, le=90, description="prediction log: days whose records `/feedback` and `/review` search")
    ] = 7

    @property
    def log_options(self) -> LogOptions | None:
        """The settings of the prediction log; None if predictions are not recorded."""
        if not self.log_url:
            return None
        return LogOptions(
            url=self.log_url,
            flush_seconds=self.log_flush_seconds,
            segment_seconds=self.log_segment_seconds,
            spool=self.log_spool,
            spool_bytes=self.log_spool_bytes,
            image_share=self.log_images,
            image_days=self.log_image_days,
            image_bytes=self.log_image_bytes,
        )

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, given: str) -> str:
        if cls.listed(given) == ["*"]:
            return given
        for address in cls.listed(given):
            try:
                ip_network(address)
            except ValueError as error:
                raise ValueError(
                    f"must be *, or list IP addresses or networks, but has {address!r}: {error}"
                ) from error
        return given

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, given: str) -> str:
        for origin in cls.listed(given):
            if not re.fullmatch(r"\*|https?://[^/*A-Z]+", origin):
                raise ValueError(
                    "must be *, or list origins in lower case, without a path or other wildcards, such as "
                    f"https://a.example, but has {origin!r}"
                )
        return given

    @field_validator("rate_limit")
    @classmethod
    def _readable(cls, given: str) -> str:
        if given:
            try:
                positive = all(limit.amount for limit in parse_many(given))
            except ValueError:
                positive = False
            if not positive:
                raise ValueError(f"must be a number of requests per time, such as 100/minute, but is {given!r}")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_upload_bytes > self.max_batch_bytes:
            raise ValueError(
                f"max_upload_bytes ({self.max_upload_bytes:,}) must be at most max_batch_bytes "
                f"({self.max_batch_bytes:,}), which limits the size of every request"
            )
        if self.log_images and not self.log_url:
            raise ValueError(f"log_images is {self.log_images}, but log_url, the place for the images, is empty")
        return self
