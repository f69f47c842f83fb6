"""Creates test images: noisy images of a class, encoded images, malicious files."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pillow_heif import register_heif_opener


def make_image(class_id: int, seed: int = 0, side: int = 30) -> Image.Image:
    """Returns a noisy image whose colour depends on the class."""
    rng = np.random.default_rng([class_id, seed])
    colour = np.array([40 + 200 * (class_id % 2), 40 + 100 * (class_id // 2 % 3), 200 - 20 * (class_id % 9)])
    noise = rng.normal(0, 12, (side, side, 3))
    return Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))


def write_signs(folder: Path, count: int) -> Path:
    """Writes images to a subfolder, next to a file that is no image and one without the suffix of an image."""
    (folder / "deep").mkdir()
    for number in range(count):
        make_image(number % 5, number).save(folder / "deep" / f"{number:03d}.png")
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("ignored")
    return folder


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    if kind == "HEIF":
        register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG file with a valid header for any size, but almost no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content
