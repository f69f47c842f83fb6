"""Draws contact sheets of the signs, to compare them with the catalogue and with photographs."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from src.mlops.data.archives import unpack_archive
from src.mlops.data.classes import ClassInfo
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.layouts import read_layout
from src.mlops.data.synthetic.camera import photograph_track
from src.mlops.data.synthetic.drawing import draw_any_version, draw_sign, drawings, german_signs
from src.mlops.errors import DataError
from src.mlops.io.files import write_atomically

_GREY, _BLACK = (150, 150, 150), (0, 0, 0)
_COLUMNS = 14
_SIDE = 48  # px of an image next to photographs
_EACH = 8  # drawn images, and photographs, of a class


def write_sign_sheets(folder: Path, raw_dir: Path | None = None) -> list[Path]:
    """Writes contact sheets as PNG files.

    `signs_200px.png` and `signs_32px.png` show all versions of all signs. If there are photographs,
    `signs_photographs.png` shows drawn images, as the simulated camera sees them, next to training images of the same
    class.

    Args:
        folder: Folder to write to. Existing sheets are replaced.
        raw_dir: Folder or archive of images of GTSRB, in any layout; None: there are none.

    Returns:
        The files.

    Raises:
        DataError: The images cannot be read or have other classes than GTSRB, or a file cannot be written.
    """
    sheets = {f"signs_{size}px.png": _sheet_of_signs(size) for size in (200, 32)}
    if raw_dir:
        sheets["signs_photographs.png"] = _sheet_of_photographs(raw_dir)
    for name, sheet in sheets.items():
        content = io.BytesIO()
        sheet.save(content, "PNG")
        try:
            write_atomically(folder / name, content.getvalue())
        except OSError as error:
            raise DataError(f"Cannot write {folder / name}: {error}.") from error
    return [folder / name for name in sheets]


def _sheet_of_signs(size: int) -> Image.Image:
    """Draws all versions of all signs. If they are large, their numbers stand below them."""
    cells = [(sign, version) for sign in german_signs() for version in range(drawings().versions(sign.number))]
    gap, caption = size // 8, 24 if size >= 100 else 0
    width, height = size + gap, size + gap + caption
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * width + gap, rows * height + gap), _GREY)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for place, (sign, version) in enumerate(cells):
        x, y = gap + place % _COLUMNS * width, gap + place // _COLUMNS * height
        drawing = draw_sign(sign, version, size)
        sheet.paste(drawing, (x, y), drawing)
        if caption:
            text = f"{sign.number}, version {version}" if version else sign.number or ""
            draw.text((x + size / 2, y + size + caption / 2), text, _BLACK, font, "mm")
    return sheet


def _sheet_of_photographs(raw_dir: Path) -> Image.Image:
    """Draws two columns of classes. Each class has its number, drawn images, and photographs."""
    folder = unpack_archive(raw_dir) if raw_dir.is_file() else raw_dir
    raw = read_layout(folder)
    if difference := raw.classes.difference(SIGNS):
        raise DataError(f"The images in {raw_dir} must have the classes of GTSRB, but have others: {difference}.")
    label, gap, step = 90, 16, _SIDE + 2
    width, rows = label + 2 * _EACH * step + 2 * gap, -(-len(SIGNS) // 2)
    sheet = Image.new("RGB", (2 * width, rows * step + gap), _GREY)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for sign in SIGNS:
        left, top = sign.class_id // rows * width, gap // 2 + sign.class_id % rows * step
        draw.text((left + label / 2, top + step / 2), sign.number or "", _BLACK, font, "mm")
        # Separate generators, so the photographs are the same after a change to the camera.
        rng, other_rng = np.random.default_rng(sign.class_id), np.random.default_rng(sign.class_id)
        drawn = (_drawn(sign, rng) for _ in range(_EACH))
        photographs = _photographs(folder, raw.train[raw.train["class_id"] == sign.class_id], other_rng)
        for start, images in ((label, drawn), (label + _EACH * step + gap, photographs)):
            for place, image in enumerate(images):
                sheet.paste(image.resize((_SIDE, _SIDE)), (left + start + place * step, top))
    return sheet


def _drawn(sign: ClassInfo, rng: np.random.Generator) -> Image.Image:
    return next(photograph_track(draw_any_version(sign, rng), rng, 1)).image


def _photographs(folder: Path, table: pd.DataFrame, rng: np.random.Generator) -> Iterator[Image.Image]:
    """Yields a random frame of some random tracks."""
    tracks: Sequence[object] = sorted(table["track_id"].unique())
    for track in rng.permutation(np.array(tracks, object))[:_EACH]:
        paths = table.loc[table["track_id"] == track, "path"]
        path = folder / str(paths.iloc[rng.integers(len(paths))])
        try:
            with Image.open(path) as image:
                yield image.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"Cannot read {path}: {error}.") from error
