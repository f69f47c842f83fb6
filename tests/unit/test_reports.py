"""Explanations, robustness, pictures that are no sign, and the cards."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.mlops import ROOT
from src.mlops.card import write_cards
from src.mlops.checkpoint import read_plain, write_content
from src.mlops.config import Config, load_config
from src.mlops.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from src.mlops.data.drawing import draw_sign
from src.mlops.data.unknowns import draw_unknowns
from src.mlops.errors import CheckpointError, DataError
from src.mlops.evaluate import evaluate
from src.mlops.explain import explain
from src.mlops.export import export
from src.mlops.inference import Classifier
from src.mlops.model import TinyCNN
from src.mlops.robustness import robustness
from tests.conftest import picture, tiny_overrides


def config_of(trained: Path, tmp_path: Path, *overrides: str) -> Config:
    own = [*tiny_overrides(trained, trained / "raw"), f"evaluation.reports_dir={tmp_path / 'reports'}"]
    return load_config([*own, *overrides])


class TestExplain:
    def test_overlay_has_the_shape_of_the_picture(self, exported: Path) -> None:
        explanation = explain(Classifier.load(exported), picture(1, side=30).resize((60, 30)))
        assert explanation.overlay.size == (480, 240)
        assert explanation.prediction.predicted_class in range(43)

    def test_evidence_is_where_it_lies(self, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        classifier = Classifier.load(exported)
        black = Image.new("RGB", (240, 240))
        outputs = classifier.run(np.zeros((1, 24, 24, 3), np.uint8))
        assert outputs.evidence is not None
        evidence = np.full_like(outputs.evidence, -1)
        evidence[..., 0, -1] = 5  # all of it at the top right
        monkeypatch.setattr(classifier, "run", lambda _: outputs._replace(evidence=evidence))
        overlay = np.asarray(explain(classifier, black).overlay).astype(int)
        assert overlay[10, -10].sum() > 200
        assert overlay[-10, 10].sum() == 0

    def test_command_line(self, exported: Path, tmp_path: Path) -> None:
        def run(name: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "src.mlops.explain", str(tmp_path / name), "--model", str(exported)]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

        picture(2).save(tmp_path / "sign.png")
        assert run("sign.png").returncode == 0
        with Image.open(tmp_path / "sign_explained.png") as overlay:
            assert overlay.width == 240
        (tmp_path / "bad.png").write_text("no picture")
        refused = run("bad.png")
        assert (refused.returncode, "found something else" in refused.stderr) == (1, True)

    def test_a_network_without_places_says_so(self, checkpoint: Path, tmp_path: Path) -> None:
        content = read_plain(checkpoint)
        content["config"]["model"] = {"_target_": "src.mlops.model.TinyCNN"}
        write_content(tmp_path / "tiny.pth", content | {"state_dict": TinyCNN().state_dict()})
        with pytest.raises(CheckpointError, match="cannot say where its evidence lies"):
            explain(Classifier.load(tmp_path / "tiny.pth"), picture(1))


class TestCorruptions:
    @pytest.fixture
    def images(self) -> np.ndarray:
        signs = [draw_sign(class_id, 48).convert("RGB") for class_id in (1, 14, 25, 33)]
        return np.stack([np.asarray(sign) for sign in signs])

    @pytest.mark.parametrize("name", list(CORRUPTIONS))
    def test_grows_with_severity(self, images: np.ndarray, name: str) -> None:
        before = images.copy()
        changes = []
        for severity in SEVERITIES:
            corrupted = corrupt(images, name, severity)
            assert (corrupted.shape, corrupted.dtype) == (images.shape, np.uint8)
            changes.append(np.abs(corrupted.astype(int) - images).mean())
        assert changes[0] > 0
        assert changes[-1] > changes[0]
        assert (images == before).all()

    def test_can_be_repeated(self, images: np.ndarray) -> None:
        for name in CORRUPTIONS:
            assert (corrupt(images, name, 3) == corrupt(images, name, 3)).all()


def test_unknown_pictures_are_of_many_kinds() -> None:
    drawn, again = draw_unknowns(3, seed=1), draw_unknowns(3, seed=1)
    assert len(drawn) >= 7
    for kind, pictures in drawn.items():
        assert [image.size for image in pictures] == [(64, 64)] * 3, kind
        assert [image.tobytes() for image in pictures] == [image.tobytes() for image in again[kind]]
        assert len({image.tobytes() for image in pictures}) == 3


class TestReports:
    def test_robustness(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        results = robustness(config_of(trained, tmp_path))
        assert results["images"] == 12
        assert set(results["accuracy"]) == set(CORRUPTIONS)
        assert all(len(row) == len(SEVERITIES) for row in results["accuracy"].values())
        assert 0 <= results["mean"] <= 1
        assert 0 <= results["invariance"] <= 1
        for name in ("robustness", "corruptions"):
            assert (tmp_path / f"reports/figures/{name}.png").stat().st_size > 5000

    def test_robustness_needs_an_export(self, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="expected a model file at"):
            robustness(config_of(trained, tmp_path, f"ckpt_path={tmp_path}/none.pth"))

    def test_cards_say_what_was_measured(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        config = config_of(trained, tmp_path)
        with pytest.raises(DataError, match=r"Measure them: `inv evaluate`"):
            write_cards(config)
        results = evaluate(config)
        model_card, data_card = write_cards(config)
        text = model_card.read_text()
        assert f"{100 * results['Accuracy']:.2f} %, {results['errors']} wrong" in text
        assert "Not measured for this model: `inv robustness`" in text
        assert Classifier.load(exported).version in text
        measured = robustness(config)
        write_cards(config)
        assert f"{100 * measured['mean']:.2f} %" in model_card.read_text()
        assert "## What the checks found" in data_card.read_text()

    def test_cards_refuse_results_of_another_model(self, trained: Path, checkpoint: Path, tmp_path: Path) -> None:
        evaluate(config_of(trained, tmp_path))
        content = read_plain(checkpoint)
        content["provenance"]["seed"] = 99
        write_content(tmp_path / "other.pth", content)
        export(tmp_path / "other.pth")
        with pytest.raises(DataError, match="found that of another"):
            write_cards(config_of(trained, tmp_path, f"ckpt_path={tmp_path}/other.pth"))

    def test_a_disk_that_cannot_be_written(self, trained: Path, exported: Path, tmp_path: Path) -> None:
        (tmp_path / "reports").write_text("a file")
        with pytest.raises(DataError, match="expected to write reports"):
            robustness(config_of(trained, tmp_path))
