"""Tests that images of unusual kinds are prepared for training exactly as they are served."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from src.mlops.data.packing import open_pack
from src.mlops.data.prepare import prepare
from src.mlops.inference.classifier import Classifier
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from tests.helpers.images import encode
from tests.helpers.once import made_once
from tests.helpers.tiny import quick_config

SIDE = 24
BLACK, GREY, WHITE, RED = (0, 0, 0), (128, 128, 128), (255, 255, 255), (200, 30, 40)


def halves(top: object, bottom: object, mode: str = "RGB", size: tuple[int, int] = (32, 48)) -> Image.Image:
    """Returns an image with two colours, whose orientation can be seen."""
    image = Image.new(mode, size, bottom)
    image.paste(top, (0, 0, size[0], size[1] // 2))
    return image


def rotated(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to see it upright"
    return encode(halves(RED, WHITE).transpose(Image.Transpose.ROTATE_90), kind, exif=exif.tobytes(), quality=95)


def deep(top: int, bottom: int) -> bytes:
    return encode(Image.fromarray(np.repeat(np.array([[top], [bottom]], np.uint16), 24, 0).repeat(32, 1)), "PNG")


def palette_with_transparency() -> bytes:
    image = halves(1, 2, "P")
    image.putpalette([*BLACK, *RED, *WHITE])
    return encode(image, "PNG", transparency=2)


# File name, content, and the colours of the upper and the lower half that a person sees
ODD = [
    ("grey.png", encode(halves(30, 220, "L"), "PNG"), (30, 30, 30), (220, 220, 220)),
    ("grey.jpg", encode(halves(30, 220, "L"), "JPEG"), (30, 30, 30), (220, 220, 220)),
    ("1-bit.png", encode(halves(0, 1, "1"), "PNG"), BLACK, WHITE),
    ("1-bit.tif", encode(halves(1, 0, "1"), "TIFF"), WHITE, BLACK),
    ("16-bit.png", deep(257 * 30, 257 * 220), (30, 30, 30), (220, 220, 220)),
    ("16-bit dark.png", deep(257 * 3, 257 * 40), (3, 3, 3), (40, 40, 40)),
    ("palette.gif", encode(halves(RED, WHITE).quantize(4), "GIF"), RED, WHITE),
    ("palette with transparency.png", palette_with_transparency(), RED, GREY),
    ("CMYK.jpg", encode(halves(RED, WHITE).convert("CMYK"), "JPEG", quality=95), RED, WHITE),
    ("LA.png", encode(halves((30, 255), (220, 0), "LA"), "PNG"), (30, 30, 30), GREY),
    ("RGBA.png", encode(halves((*RED, 255), (*WHITE, 0), "RGBA"), "PNG"), RED, GREY),
    ("RGBA.webp", encode(halves((*RED, 255), (*WHITE, 0), "RGBA"), "WEBP", lossless=True), RED, GREY),
    ("rotated.jpg", rotated("JPEG"), RED, WHITE),
    ("rotated.png", rotated("PNG"), RED, WHITE),
    ("4 px.png", encode(halves(RED, WHITE, size=(4, 4)), "PNG"), RED, WHITE),
    ("12 megapixels.jpg", encode(halves(RED, WHITE, size=(4000, 3000)), "JPEG", quality=95), RED, WHITE),
    ("PNG named.jpg", encode(halves(RED, BLACK), "PNG"), RED, BLACK),
]
odd = pytest.mark.parametrize(("name", "content", "top", "bottom"), ODD, ids=[entry[0] for entry in ODD])
Colour = tuple[int, int, int]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray[np.uint8]]:
    """Returns the pixels that training sees, uint8 [24, 24, 3], by file name."""

    def make(folder: Path) -> None:
        for class_id, (upper, lower) in enumerate([(RED, RED), (BLACK, BLACK)]):  # images of ordinary kinds
            (folder / "raw" / str(class_id)).mkdir(parents=True)
            for number in range(8):
                colours = [(*colour[:2], colour[2] + number) for colour in (upper, lower)]
                halves(*colours).save(folder / "raw" / str(class_id) / f"{number}.png")
        for name, content, _, _ in ODD:
            (folder / "raw" / "0" / name).write_bytes(content)
        processed = folder / "processed"
        settings = [f"data.raw_dir={folder}/raw", f"data.processed_dir={processed}", f"data.image_size={SIDE}"]
        prepare(quick_config(settings).data)

    arrays = open_pack(made_once(tmp_path_factory, "odd_images", make) / "processed").load("train", "val", "test")
    return {
        path.rpartition("/")[2]: arrays.images[row]
        for row, path in zip(arrays.rows, arrays.paths, strict=True)
        if path.startswith("0/")
    }


@odd
def test_training_sees_what_a_person_sees(
    packed: dict[str, NDArray[np.uint8]], name: str, content: bytes, top: Colour, bottom: Colour
) -> None:
    pixels = packed[name].astype(int)
    edge = SIDE // 4  # in an image of 4 px, the colours blend over a quarter of the height
    assert np.abs(pixels[:edge] - top).max() <= 4
    assert np.abs(pixels[-edge:] - bottom).max() <= 4


@odd
def test_the_classifier_and_the_service_see_the_same_pixels_as_training(
    packed: dict[str, NDArray[np.uint8]],
    classifier: Classifier,
    service: TestClient,
    name: str,
    content: bytes,
    top: Colour,
    bottom: Colour,
    tmp_path: Path,
) -> None:
    (expected,) = classifier.classify_arrays(packed[name][None])
    (tmp_path / name).write_bytes(content)
    sources: list[bytes | Path | Image.Image] = [content, tmp_path / name, Image.open(io.BytesIO(content))]
    assert classifier.classify(sources) == [expected] * 3
    answer = service.post("/cv_model/", files={"file": (name, content)})
    assert answer.status_code == 200
    assert answer.json()["probability"] == pytest.approx(expected.probability, abs=1e-6)
    assert answer.json()["predicted_class"] == expected.predicted_class


@pytest.fixture(scope="module")
def classifier(exported: Path) -> Classifier:
    return Classifier.load(exported)


@pytest.fixture(scope="module")
def service(exported: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(model=str(exported)))) as client:
        yield client
