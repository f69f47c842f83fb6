"""Small synthetic data sets."""

from dataclasses import replace
from pathlib import Path

import pytest

from src.mlops.data.classes import ClassInfo, ClassList
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.synthetic.generate import generate
from tests.helpers.tiny import write_kaggle

FURTHER = ClassList(
    [
        *(replace(sign, mirror=43) if sign.number == "105-10" else sign for sign in SIGNS),
        ClassInfo(43, "Double bend, first to the right", "105-20", "red_triangle", mirror=21),
        ClassInfo(44, "Tunnel", "327", "blue_square", mirror=44),
    ]
)
"""The signs of GTSRB and two further ones."""


def generate_small(folder: Path, seed: int = 7) -> Path:
    generate(folder, tracks_per_class=2, frames_per_track=2, test_tracks_per_class=1, seed=seed)
    return folder


def draw_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws coloured noise instead of signs, and two further German signs instead of all."""

    def write(folder: Path, *, signs: str, tracks_per_class: int, test_tracks_per_class: int, **_: int) -> None:
        classes = FURTHER if signs == "germany" else SIGNS
        write_kaggle(folder, len(classes), tracks_per_class, 1, test_tracks_per_class, seed=1_000_000)
        if signs == "germany":
            classes.write(folder / "classes.csv")

    monkeypatch.setattr("src.mlops.data.sources.generate", write)
    names = {"gtsrb": SIGNS, "germany": FURTHER}
    monkeypatch.setattr("src.mlops.data.additional.signs_named", names.__getitem__)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
