"""Configures logging for commands, the service and its workers."""

import logging
import sys


def start_logging(level: str = "info", formatter: logging.Formatter | None = None) -> None:
    """Writes log messages to stderr, and raises the level of libraries that log too much.

    Args:
        level: Name of the lowest level that is shown.
        formatter: Formatter of the messages; None shows only the message.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter or logging.Formatter("%(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("asyncio", "httpx2", "onnx_ir", "onnxscript"):  # they log every request and every step of an export
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its errors are raised again as DataError
    logging.getLogger("PIL").setLevel(logging.INFO)
    # Messages of uvicorn about processes and malformed requests help only with debugging.
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.ERROR)
