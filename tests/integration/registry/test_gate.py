"""The gate of a retraining: trained models, on the original and on collected images."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from src.mlops.config import Config
from src.mlops.registry.gate import Check, run_gate
from src.mlops.training.train import train
from tests.helpers.tiny import quick_config, tiny_overrides, write_collected, write_kaggle

BETTER = "better than production on collected images"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Returns a folder with raw data, collected images, and the models `first` and, trained with these, `second`."""
    folder = tmp_path_factory.mktemp("retraining")
    write_kaggle(folder / "raw", tracks=3, frames=2)
    write_collected(folder / "collected", ["0", "1", "2"], groups=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("src.mlops.training.train.draw_learning_curves", lambda *_: None)
        for name, collected in (("first", "null"), ("second", folder / "collected")):
            own = [f"ckpt_path={folder / name / 'best_model.pth'}", f"run_dir={folder / 'runs' / name}"]
            train(config_of(folder, f"data.collected={collected}", *own, "training.export=true"))
    return folder


def config_of(folder: Path, *overrides: str) -> Config:
    return quick_config([*tiny_overrides(folder, folder / "raw"), *overrides])


def checked(folder: Path, candidate: str, production: str | None, *overrides: str) -> dict[str, Check]:
    rival = folder / production if production else None
    return {check.name: check for check in run_gate(config_of(folder, *overrides), folder / candidate, rival, None)}


def test_new_images_are_compared_and_were_not_trained_on(folder: Path) -> None:
    checks = checked(folder, "second", "first", f"data.collected={folder / 'collected'}")
    assert " misclassified, production " in checks[BETTER].found
    assert checks["collected test images that it was trained on"].passed
    assert checks["collected test images that it was trained on"].found.startswith("0 of ")


def test_a_retrained_model_is_not_promoted_without_the_new_images(folder: Path) -> None:
    check = checked(folder, "second", "first")[BETTER]
    assert not check.passed
    assert "data.collected" in check.found


@pytest.mark.parametrize(("candidate", "production"), [("first", "second"), ("second", None)])
def test_other_models_need_no_new_images(candidate: str, production: str | None, folder: Path) -> None:
    assert BETTER not in checked(folder, candidate, production)


def test_a_second_retraining_starts_from_the_model_of_the_first_one(folder: Path, tmp_path: Path) -> None:
    """With more images, none of which moves from the training to the validation or the test."""
    write_collected(tmp_path / "collected", ["0", "1", "2"], groups=16)
    collected = f"data.collected={tmp_path / 'collected'}"
    start = f"training.start_from={folder / 'second' / 'best_model.pth'}"
    config = config_of(folder, collected, start, f"ckpt_path={tmp_path / 'third' / 'best_model.pth'}")
    config = config.replace({"run_dir": tmp_path / "run", "training.export": True})
    train(config)
    for candidate, production in ((tmp_path / "third", "second"), (folder / "second", "first")):
        checks = {check.name: check for check in run_gate(config, candidate, folder / production, None)}
        assert checks["collected test images that it was trained on"].found.startswith("0 of ")
