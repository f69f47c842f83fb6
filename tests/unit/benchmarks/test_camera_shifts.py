"""The comparison of models under camera shifts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks import camera_shifts, environment, tables
from benchmarks.shifts import CAMERAS, FURTHER_CAMERAS, STRENGTHS
from src.mlops.data.prepare import prepare
from src.mlops.errors import ConfigError
from src.mlops.inference.classifier import Classifier
from tests.helpers.tiny import quick_config, tiny_overrides


class TestMain:
    def test_compares_models_image_by_image(self, trained: Path, exported: Path, tmp_path: Path, results: Path) -> None:
        other = Path(shutil.copy(exported, tmp_path / "other.onnx"))
        words = [f"first={exported}", f"second={other}", *tiny_overrides(trained, trained / "raw")]
        CliRunner().invoke(camera_shifts.app, words, catch_exceptions=False)
        rows = environment.read_results("camera_shifts")
        assert len(rows) == 2 * (len(camera_shifts.SHIFTS) + 1)
        arrays = prepare(quick_config(tiny_overrides(trained, trained / "raw")).data).load("test")
        outputs = Classifier.load(exported).run(arrays.images[arrays.rows])
        expected = int((outputs.probabilities.argmax(axis=1) != arrays.labels).sum())
        unchanged = [row for row in rows if row["shift"] == "none"]
        assert [row["wrong"] for row in unchanged] == [str(expected)] * 2
        assert [row["p_value"] for row in unchanged] == ["", "1.0"]
        assert rows[-1]["shift"] == "all"
        table = tables.TABLES["camera_shifts"]()
        assert "| shift | strength | first, % | second, % |" in table
        assert "(0 / 0)" in table
        CliRunner().invoke(camera_shifts.app, words[:1] + words[2:], catch_exceptions=False)
        assert {row["model"] for row in environment.read_results("camera_shifts")} == {"first"}

    @pytest.mark.parametrize("words", [["data.raw_dir=x"], ["a=x.onnx", "a=y.onnx"], ["x.onnx"]])
    def test_models_need_names(self, words: list[str]) -> None:
        result = CliRunner().invoke(camera_shifts.app, words)
        assert isinstance(result.exception, ConfigError)
        assert "NAME=FILE.onnx" in str(result.exception)


class TestComparison:
    def test_counts_images_that_only_one_model_misclassifies(self) -> None:
        first, second = np.zeros((2, len(camera_shifts.SHIFTS), 10), bool)
        first[0, :1] = second[0, 2:9] = True  # without a shift
        second[1, 0] = True
        rows = camera_shifts.compared(second, first)
        found = [[row[name] for name in ("wrong", "wrong_only_here", "wrong_only_there")] for row in rows]
        assert found[:3] == [[7, 7, 1], [1, 1, 0], [0, 0, 0]]
        assert rows[0]["p_value"] == pytest.approx(9 / 256, abs=1e-5)
        assert rows[0]["accuracy"] == 0.3
        assert found[-1] == [8, 7, 0]  # image 0 is wrong as often with both


class TestShifts:
    @pytest.mark.parametrize("name", [*CAMERAS, *FURTHER_CAMERAS])
    def test_grow_with_their_strength(self, name: str) -> None:
        image = np.random.default_rng(0).integers(30, 220, (1, 30, 20, 3), np.uint8)
        changes = []
        for strength in STRENGTHS:
            shifted = (CAMERAS | FURTHER_CAMERAS)[name](image, strength)
            assert shifted.shape == image.shape
            assert shifted.dtype == np.uint8
            changes.append(np.abs(shifted.astype(int) - image).mean())
        assert 0 < changes[0] < changes[1] < changes[2]

    def test_one_version_of_an_image_for_each_shift(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
        versions = camera_shifts.shifted_versions(Image.fromarray(pixels))
        assert len(versions) == len(camera_shifts.SHIFTS)
        assert len({version.tobytes() for version in versions}) == len(versions)
