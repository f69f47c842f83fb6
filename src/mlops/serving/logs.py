"""Log formats of the service: plain text, or one JSON object per line in the format of Cloud Logging.

https://cloud.google.com/logging/docs/structured-logging
"""

import logging
import os
import time
from contextvars import ContextVar
from typing import Any

from src.mlops.io import logs
from src.mlops.io.files import to_json
from src.mlops.serving.settings import ServerSettings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")


def start_logging(settings: ServerSettings) -> None:
    """Starts the logging of this process with the format and level of the settings."""
    logs.start_logging(settings.log_level, JsonFormatter() if settings.log_format == "json" else TextFormatter())


class TextFormatter(logging.Formatter):
    """Formats records as `INFO message [request id]`."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        request = REQUEST_ID.get()
        return f"{record.levelname} {super().format(record)}{f' [{request}]' if request else ''}"


class JsonFormatter(logging.Formatter):
    """Formats records as one JSON object per line. `extra={"fields": {…}}` adds fields to it."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        entry: dict[str, Any] = {
            "severity": record.levelname,
            "message": super().format(record),
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{record.msecs:03.0f}Z",
            "logger": record.name,
            "process": os.getpid(),
        }
        if request := REQUEST_ID.get():
            entry["request_id"] = request
        return to_json(entry | getattr(record, "fields", {}), ensure_ascii=False)

    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        """Converts times to UTC."""
        return time.gmtime(seconds)
