"""Logs of the service: plain text for people, or one JSON object a line in the shape of Cloud Logging.

https://cloud.google.com/logging/docs/structured-logging
"""

import json
import logging
import os
import sys
from contextvars import ContextVar
from typing import Any

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")


def set_up(log_format: str, level: str) -> None:
    """Sets the logging of this process up, on stderr.

    Args:
        log_format: `text` or `json`.
        level: Name of the lowest level that is shown.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What uvicorn tells of its processes and of malformed requests is for those who look into a fault.
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("PIL").setLevel(logging.INFO)


class TextFormatter(logging.Formatter):
    """`INFO message [request id]`."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        request = REQUEST_ID.get()
        return f"{record.levelname} {super().format(record)}{f' [{request}]' if request else ''}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a request's fields come as `extra={"fields": {…}}`."""

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
        return json.dumps(entry | getattr(record, "fields", {}), ensure_ascii=False)

    @staticmethod
    def converter(seconds: float | None) -> Any:
        """Writes times in UTC."""
        import time

        return time.gmtime(seconds)
