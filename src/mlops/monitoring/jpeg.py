"""Estimates the quality setting with which a JPEG file was saved."""

import functools

import numpy as np
from numpy.typing import NDArray

_MAX_SEGMENTS = 100  # before the image data; files of cameras have about ten
_QUANTISATION, _SCAN, _END = 0xDB, 0xDA, 0xD9
# The luminance table of ITU-T T.81, annex K, in zigzag order as in a file.
_STANDARD = np.array(
    [
        *(16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40),
        *(26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51),
        *(56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87),
        *(95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99),
    ]
)


def jpeg_quality(content: bytes) -> int | None:
    """Estimates the quality of a JPEG file from its first quantisation table, the one of the luminance.

    The result is the quality of libjpeg whose table is closest. It is exact for files that libjpeg or Pillow saved, and
    an approximation for cameras with tables of their own (Cogranne, "Determining JPEG image standard quality factor
    from the quantization tables", arXiv:1802.00992, 2018).

    Args:
        content: The bytes of an image file.

    Returns:
        1 to 100; None if the file is not a JPEG or its table is not readable.
    """
    if not content.startswith(b"\xff\xd8"):
        return None
    at = 2
    for _ in range(_MAX_SEGMENTS):
        if content[at : at + 1] != b"\xff" or len(content) < at + 4:
            return None
        kind = content[at + 1]
        if kind == 0xFF:  # a fill byte
            at += 1
            continue
        if kind in (_SCAN, _END):
            return None
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4])
        if kind == _QUANTISATION:
            return _closest(content[at + 4 : min(end, at + 4 + 129)])
        at = end
    return None


@functools.lru_cache(maxsize=256)  # cameras and programs have few tables
def _closest(segment: bytes) -> int | None:
    wide = segment[:1] > b"\x0f"  # 16 bits per entry
    table = segment[1 : 129 if wide else 65]
    if len(table) != _STANDARD.size * (2 if wide else 1):
        return None
    values = np.frombuffer(table, ">u2" if wide else np.uint8)
    if not values.all():
        return None
    return 1 + int(np.abs(np.log(_tables()) - np.log(values)).sum(1).argmin())


@functools.cache
def _tables() -> NDArray[np.int64]:
    """Returns libjpeg's tables of the qualities 1 to 100, int64 [100, 64]."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.asarray(np.clip((_STANDARD * scale + 50) // 100, 1, 255))
