"""A model of German signs that the data does not have, from the training to the service: `classes=germany`."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from src.mlops.config import Config
from src.mlops.data.dataset import Batches
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.prepare import prepare
from src.mlops.data.synthetic.drawing import german_signs
from src.mlops.errors import ConfigError, DataError
from src.mlops.evaluation.evaluate import evaluate
from src.mlops.evaluation.model_card import write_cards
from src.mlops.evaluation.recalibrate import calibrate
from src.mlops.evaluation.robustness import robustness
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.monitoring.reference import add_reference
from src.mlops.registry.gate import run_gate
from src.mlops.serving.app import create_app
from src.mlops.serving.settings import Settings
from src.mlops.training.train import train
from tests.helpers.once import made_once
from tests.helpers.synthetic import FURTHER, draw_quickly
from tests.helpers.tiny import quick_config, tiny_overrides, write_collected, write_kaggle

FEW = [
    *("training.drawn.tracks_per_class=2", "training.drawn.frames_per_track=1"),
    *("training.drawn.test_tracks_per_class=1", "training.epochs=1"),
]
UNPROVEN = "unproven how well"


def settings(folder: Path, *overrides: str) -> Config:
    return quick_config(["classes=germany", *tiny_overrides(folder, folder / "raw"), *FEW, *overrides])


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model of all German signs that are described, trained on drawings of them."""

    def make(folder: Path) -> None:
        write_kaggle(folder / "raw", tracks=6, frames=2)
        config = settings(folder, "training.export=true", "model.width=8")
        train(config, on_export=add_reference)
        evaluate(config)

    return made_once(tmp_path_factory, "german", make)


class TestFromTrainingToService:
    def test_the_validation_covers_the_data_and_the_drawings(self, german: Path) -> None:
        checkpoint = load_checkpoint(german / "latest/best_model.pth")
        classes = german_signs()
        assert checkpoint.classes == classes
        assert checkpoint.drawn_classes == list(range(len(SIGNS), len(classes)))
        count = len(classes) - len(SIGNS)
        real = len(prepare(settings(german).data).load("val").rows)
        parts = [checkpoint.metrics[f"val_Accuracy_{name}"] for name in ("data", "drawn")]
        both = (parts[0] * real + parts[1] * count) / (real + count)  # one track of each further sign is held out
        assert checkpoint.metrics["val_Accuracy"] == pytest.approx(both)
        log = (german / "run/train.log").read_text()
        assert f"images of {len(classes)} classes" in log
        assert f"on {real} images of the data, {parts[1]:.4f} on {count} drawings of the {count} signs" in log
        assert UNPROVEN in log

    def test_the_report_has_both_separately(self, german: Path) -> None:
        reports = german / "reports"
        metrics = json.loads((reports / "metrics.json").read_text())
        further = metrics["further_signs"]
        assert {row["class_id"] for row in metrics["classes"]} == {0, 1, 2, 3}
        assert [row["class_id"] for row in further["classes"]] == list(range(len(SIGNS), len(german_signs())))
        assert (metrics["images"], further["images"]) == (12, len(further["classes"]))
        assert UNPROVEN in further["about"]
        assert not metrics["on_drawings"]
        for name in ("predictions_further_signs.csv", "figures/further_signs/confusion_matrix.png"):
            assert (reports / name).is_file()

    def test_the_cards_say_that_photographs_are_unproven(self, german: Path) -> None:
        config = settings(german, f"evaluation.reports_dir={german / 'reports'}")
        model, _ = write_cards(config)
        text = model.read_text()
        section = text.partition("## Signs that the data does not have")[2].partition("\n## ")[0]
        assert "is unproven" in section
        assert "Crossroads" in section
        assert "Crossroads" not in text.partition("## Signs that the data does not have")[0]
        assert UNPROVEN in text.partition("## Intended use")[2].partition("##")[0]
        assert UNPROVEN in text.partition("## Limits")[2]

    def test_all_signs_can_be_measured_on_drawings(self, german: Path, tmp_path: Path) -> None:
        shutil.copytree(german / "reports", tmp_path / "reports")  # with results of further signs
        drawn = {"tracks_per_class": 2, "frames_per_track": 1, "test_tracks_per_class": 1, "seed": 3}
        config = settings(
            german,
            *("data=synthetic", "data.synthetic.signs=germany", f"data.raw_dir={tmp_path / 'drawn'}"),
            *(f"data.synthetic.{key}={value}" for key, value in drawn.items()),
            *(f"data.processed_dir={tmp_path / 'processed'}", f"evaluation.reports_dir={tmp_path / 'reports'}"),
        )
        metrics = evaluate(config)
        assert metrics["images"] == len(metrics["classes"]) == len(german_signs())
        assert metrics["on_drawings"]
        assert "further_signs" not in metrics
        assert not list((tmp_path / "reports").rglob("*further_signs*"))

    def test_robustness_on_the_images_of_the_data(self, german: Path, tmp_path: Path) -> None:
        results = robustness(settings(german, f"evaluation.reports_dir={tmp_path}"))
        assert results["images"] == 12
        assert {row["class_id"] for row in results["worst_classes"]} == {0, 1, 2, 3}

    def test_the_service_loads_it_unchanged(self, german: Path) -> None:
        model = german / "latest/best_model.onnx"
        content = next((german / "processed/drawn/raw").glob("*/Test/*.png")).read_bytes()
        with TestClient(create_app(Settings(model=str(model)))) as client:
            answer = client.post("/cv_model/", files={"file": ("a.png", content)}).json()
            assert answer["class_name"] == german_signs()[answer["predicted_class"]].name
            about = client.get("/model").json()
            assert [entry["name"] for entry in about["classes"]] == german_signs().names
            assert UNPROVEN in about["intended_use"]

    def test_the_gate_compares_it_on_the_images_of_the_data(self, german: Path, exported: Path) -> None:
        folder = german / "latest"
        checks = {check.name: check for check in run_gate(settings(german), folder, folder, None)}
        assert checks["class list"].passed
        assert "0 right only in production" in checks["not worse than production"].found
        first = run_gate(settings(german), folder, exported.parent, None)[0]
        assert (first.name, first.passed) == ("class list", False)
        assert f"{len(german_signs())} classes instead of 43" in first.found


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Returns a function that composes a config with two further signs, which are drawn as noise."""
    draw_quickly(monkeypatch)
    write_kaggle(tmp_path / "raw", tracks=3, frames=2)
    return lambda *overrides: settings(tmp_path, *overrides)


class TestTraining:
    def test_a_run_is_resumed_with_the_same_drawings_only(
        self, quick: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        constant = ["training.schedule=constant", "training.resume=true", "training.epochs=2"]
        train(quick("training.schedule=constant"))
        train(quick(*constant))
        assert load_checkpoint(tmp_path / "run/best_model.pth").classes == FURTHER
        assert read_plain(tmp_path / "run/last.pth")["epoch"] == 2
        with pytest.raises(ConfigError, match=r"changed since its start: .*training\.drawn"):
            train(quick(*constant, "training.drawn.seed=5"))
        monkeypatch.setattr("src.mlops.data.sources.drawing_version", lambda: "other")
        monkeypatch.setattr(
            "src.mlops.data.sources.generate",
            lambda folder, **_: FURTHER.write(write_kaggle(folder, 45, 2, 1, 1, seed=2_000_000) / "classes.csv"),
        )
        with pytest.raises(ConfigError, match=r"changed since its start: the data"):
            train(quick(*constant))

    def test_a_final_fit_also_learns_their_validation_images(
        self, quick: Callable[..., Config], tmp_path: Path
    ) -> None:
        train(quick("training.final_fit=true"))
        pack = prepare(quick().data)
        images = len(pack.load("train").rows) + len(pack.load("val").rows) + 43 * 3 + 2 * 2
        assert f"all {images} images" in (tmp_path / "run/train.log").read_text()
        assert load_checkpoint(tmp_path / "latest/best_model.pth").provenance["trained_on"] == ["train", "val"]

    def test_a_class_that_is_left_out_is_neither_trained_nor_validated(
        self, quick: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: set[int] = set()
        original = Batches.epoch

        def epoch(batches: Batches, number: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for images, labels in original(batches, number):
                seen.update(labels.tolist())
                yield images, labels

        monkeypatch.setattr(Batches, "epoch", epoch)
        train(quick("training.leave_out=[2,44]"))
        assert seen == set(range(45)) - {2, 44}

    def test_it_starts_from_a_model_of_the_same_signs_only(self, quick: Callable[..., Config], tmp_path: Path) -> None:
        train(quick())
        first = Path(shutil.move(tmp_path / "latest", tmp_path / "first")) / "best_model.pth"
        train(quick(f"training.start_from={first}", f"run_dir={tmp_path / 'second'}"))
        assert load_checkpoint(tmp_path / "latest/best_model.pth").provenance["image_sketch"]
        with pytest.raises(ConfigError, match=r"start_from=.*43 classes instead of 45"):
            train(quick(f"training.start_from={first}", "training.drawn=null", f"run_dir={tmp_path / 'third'}"))

    def test_collected_photographs_of_further_signs(self, quick: Callable[..., Config], tmp_path: Path) -> None:
        write_collected(tmp_path / "collected", ["Tunnel"], groups=4)
        config = quick(f"data.collected={tmp_path / 'collected'}")
        train(config)
        assert load_checkpoint(config.ckpt_path).drawn_classes == [43]

    def test_drawings_instead_of_photographs(self, quick: Callable[..., Config], tmp_path: Path) -> None:
        synthetic = quick(
            *("data=synthetic", f"data.raw_dir={tmp_path / 'drawn'}", f"data.processed_dir={tmp_path / 'synthetic'}"),
            *("data.synthetic.tracks_per_class=2", "data.synthetic.test_tracks_per_class=1"),
        )
        train(synthetic)
        assert load_checkpoint(synthetic.ckpt_path).drawn_classes == list(range(45))
        metrics = evaluate(synthetic)
        assert (metrics["on_drawings"], len(metrics["classes"])) == (True, 43)
        assert len(metrics["further_signs"]["classes"]) == 2


class TestCalibration:
    def test_uses_the_same_images_as_the_training(
        self, quick: Callable[..., Config], caplog: pytest.LogCaptureFixture
    ) -> None:
        config = quick()
        train(config)
        caplog.clear()
        calibrate(config.replace({"calibration.coverage": 0.99}))
        real = len(prepare(config.data).load("val").rows)
        assert f"only {real + 2} validation images" in caplog.text

    def test_other_drawings_are_refused(self, quick: Callable[..., Config]) -> None:
        config = quick()
        train(config)
        content = read_plain(config.ckpt_path)
        content["provenance"]["drawn_fingerprint"] = "0" * 64
        write_content(config.ckpt_path, content)
        with pytest.raises(DataError, match="other drawings"):
            calibrate(config)
