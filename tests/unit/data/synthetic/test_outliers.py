"""Tests the images of unknown things for training."""

from pathlib import Path

import numpy as np
import pytest

from src.mlops.data.classes import ClassInfo
from src.mlops.data.layouts import read_layout
from src.mlops.data.synthetic.drawing import drawings
from src.mlops.data.synthetic.generate import generate
from src.mlops.data.synthetic.invented import INVENTIONS, unused_number
from src.mlops.data.synthetic.outliers import outlier_kinds, render_outliers


@pytest.mark.parametrize("kind", outlier_kinds(), ids=lambda kind: kind.name)
def test_each_kind_varies_and_depends_on_the_seed_only(kind: ClassInfo) -> None:
    def render(seed: int) -> list[bytes]:
        return [
            frame.image.tobytes() for frame in render_outliers(kind, np.random.default_rng([seed, kind.class_id]), 2)
        ]

    assert render(1) == render(1)
    assert len({image for seed in range(5) for image in render(seed)}) == 10


def test_no_number_is_on_a_sign() -> None:
    rng = np.random.default_rng(0)
    numbers = {unused_number(rng) for _ in range(2000)}
    texts = {
        layer.text
        for description in drawings().descriptions.values()
        for layers in description.drawings
        for layer in layers
        if layer.text
    }
    assert {"20", "70", "130"} <= texts
    assert len(numbers) > 80
    assert not numbers & texts


@pytest.mark.parametrize("kind", ["invented symbol", "invented pictogram", "invented column"])
def test_no_sign_looks_as_if_it_had_no_symbol(kind: str) -> None:
    plain = [np.asarray(drawings().draw(number), int) for number in ("250", "205", "282")]
    for seed in range(40):
        sign = np.asarray(INVENTIONS[kind](np.random.default_rng(seed)), int)
        assert min((np.abs(sign - other).max(axis=2) > 60).mean() for other in plain) > 0.01


def test_no_column_looks_like_a_real_sign() -> None:
    real = [np.asarray(drawings().draw(number).resize((128, 128)), int) for number in ("101", "131")]
    for seed in range(40):
        sign = np.asarray(INVENTIONS["invented column"](np.random.default_rng(seed)), int)
        assert min((np.abs(sign - other).max(axis=2) > 60).mean() for other in real) > 0.015


def test_the_data_set_has_the_kinds_as_classes(tmp_path: Path) -> None:
    folder = tmp_path / "outliers"
    generate(folder, tracks_per_class=2, frames_per_track=2, test_tracks_per_class=1, seed=0, signs="outliers")
    raw = read_layout(folder)
    assert raw.classes == outlier_kinds()
    assert raw.train.groupby("class_id").size().tolist() == [4] * len(outlier_kinds())
