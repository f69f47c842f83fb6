"""Reads the sizes of the frames in an AVIF file without decoding them.

The size that the container states is not binding: the decoder allocates frames of the size in the AV1 data (up to
16384 x 16384 px) and scales them to the stated size. So a file of a few kB can take 0.5 GB. This module follows the
specifications ISO/IEC 14496-12 (boxes), ISO/IEC 23008-12 (items) and AV1 (section 5.5, sequence header).
"""

from collections.abc import Callable, Iterator

_MOST_UNITS = 1000  # AV1 units per item; an encoder writes fewer than ten for a still image
_SEQUENCE_HEADER = 1


def largest_frame(content: bytes) -> int:
    """Returns the number of pixels of the largest frame that the AV1 data of an AVIF file defines.

    Unless the data declares itself a still image, each frame can state its own size in fields whose lengths are
    in the sequence header. Encoders choose the shortest fields, so a quarter of the largest size in these fields is
    counted if that is more.

    Args:
        content: The complete file.

    Raises:
        ValueError: The file is malformed, is an image sequence, or uses a feature that no still image needs.
    """
    top = _unique(content, 0, len(content))
    if b"moov" in top:
        raise ValueError("it is an image sequence")
    start, end = top[b"meta"]
    meta = _unique(content, start + 4, end)
    images = set(_av1_items(content, *meta[b"iinf"]))
    offset_of_data = meta.get(b"idat", (0, 0))[0]
    largest, total = 0, 0
    for item, extents in _locations(content, *meta[b"iloc"], offset_of_data):
        if item in images:
            total += sum(length for _, length in extents)
            if total > len(content):
                raise ValueError("items overlap")
            data = b"".join(content[offset : offset + length] for offset, length in extents)
            largest = max([largest, *map(_frame_pixels, _sequence_headers(data))])
    return largest


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields the type, and the start and end of the payload, of each box."""
    while at + 8 <= end:
        size, kind, start = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(content[at + 8 : at + 16]), at + 16
        stop = end if size == 0 else at + size
        if not start <= stop <= end:
            raise ValueError(f"box {kind!r} has a wrong size")
        yield kind, start, stop
        at = stop


def _unique(content: bytes, at: int, end: int) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for kind, start, stop in _boxes(content, at, end):
        if kind in found and kind in {b"meta", b"iinf", b"iloc", b"idat"}:
            raise ValueError(f"several boxes {kind!r}")
        found[kind] = start, stop
    return found


def _reader(content: bytes, at: int, end: int) -> Callable[[int], int]:
    """Returns a function that reads the next big-endian number of the given number of bytes."""

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > end:
            raise ValueError("a box ends too early")
        return int.from_bytes(content[at - size : at])

    return read


def _av1_items(content: bytes, start: int, end: int) -> Iterator[int]:
    header = 6 if content[start] == 0 else 8
    for kind, at, stop in _boxes(content, start + header, end):
        if kind == b"infe":
            read = _reader(content, at, stop)
            version = read(1)
            read(3)
            item = read(2 if version < 3 else 4)
            read(2)
            if read(4).to_bytes(4) == b"av01":
                yield item


def _locations(content: bytes, start: int, end: int, idat: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yields the number of each item, and the offset and length of each part of its data."""
    read = _reader(content, start, end)
    version = read(1)
    read(3)
    sizes = read(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    for _ in range(read(2 if version < 2 else 4)):
        item = read(2 if version < 2 else 4)
        method = read(2) & 15 if version else 0
        read(2)
        if method > 1:
            raise ValueError("data of an item is derived from another item")
        base = read(base_size) + (idat if method else 0)
        extents = []
        for _ in range(read(2)):
            read(index_size)
            extents.append((base + read(offset_size), read(length_size)))
        yield item, extents


def _sequence_headers(data: bytes) -> Iterator[bytes]:
    """Yields the payload of each sequence header in AV1 data."""
    at = 0
    for _ in range(_MOST_UNITS):
        if at >= len(data):
            return
        header = data[at]
        at += 2 if header & 4 else 1
        size = len(data) - at
        if header & 2:
            size = shift = 0
            while shift < 56:
                byte = data[at] if at < len(data) else 0
                at += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            yield data[at : at + size]
        at += size
    raise ValueError("too many units in the AV1 data")


def _frame_pixels(header: bytes) -> int:
    bits, left = int.from_bytes(header[:256].ljust(256, b"\0")), 8 * 256

    def read(count: int) -> int:
        nonlocal left
        left -= count
        return bits >> left & ((1 << count) - 1)

    read(4)  # seq_profile, still_picture
    reduced = read(1)
    if reduced:
        read(5)
    else:
        if read(1):
            raise ValueError("AV1 data of a video")  # timing_info_present_flag
        delay = read(1)
        for _ in range(read(5) + 1):
            read(12)
            if read(5) > 7:
                read(1)
            if delay and read(1):
                read(4)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    pixels = (read(width_bits) + 1) * (read(height_bits) + 1)
    return pixels if reduced else max(pixels, 1 << (width_bits + height_bits - 2))
