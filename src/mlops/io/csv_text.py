"""Reads the text of CSV files as people's programs write them: UTF-8 or UTF-16; commas, semicolons or tabs."""

import codecs
from pathlib import Path

from src.mlops.errors import DataError

_SEPARATORS = ",;\t"


def read_csv_text(path: Path) -> tuple[str, str]:
    """Returns the text of a CSV file, and the separator that is in its first line.

    The text has no byte-order mark, and its lines end with a line feed.

    Raises:
        DataError: The file cannot be read, or is not a text in UTF-8 or UTF-16.
    """
    try:
        content = path.read_bytes()
        text = content.decode(_encoding(content))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"Cannot read {path}: it is neither UTF-8 nor UTF-16. Save it as CSV in UTF-8.") from error
    if "\0" in text:
        raise DataError(f"Cannot read {path}: it contains null characters. Save it as CSV in UTF-8.")
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")
    header = text.partition("\n")[0]
    return text, max(_SEPARATORS, key=header.count)


def _encoding(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if content[:2].count(0) == 1:  # UTF-16 without a byte-order mark
        return "utf-16-be" if content[0] == 0 else "utf-16-le"
    return "utf-8-sig"
