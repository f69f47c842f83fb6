"""The reference that an export contains, from the images that the model was not trained on."""

import logging
from pathlib import Path

import numpy as np
import pytest

from src.mlops.config import Config
from src.mlops.data.packing import Pack, open_pack
from src.mlops.data.prepare import prepare
from src.mlops.errors import CheckpointError, DataError
from src.mlops.export import main as export
from src.mlops.inference.classifier import Classifier
from src.mlops.monitoring.baseline import Baseline
from src.mlops.monitoring.reference import add_reference
from src.mlops.train import main as train
from tests.helpers.once import made_once
from tests.helpers.tiny import quick_config, tiny_overrides, write_kaggle

EXPORT = "latest/best_model.onnx"


def config_of(folder: Path, *overrides: str) -> Config:
    return quick_config([*tiny_overrides(folder, folder / "raw"), "data.split.test_size=0.5", *overrides])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a model whose data has a reference split of 51 signs."""

    def make(folder: Path) -> None:
        write_kaggle(folder / "raw", classes=3, tracks=136, frames=1)
        train(config_of(folder, "training.final_fit=true", "training.export=true"))

    return made_once(tmp_path_factory, "reference", make)


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes((folder / EXPORT).read_bytes())
    return path


@pytest.fixture
def pack(folder: Path) -> Pack:
    return open_pack(folder / "processed")


def test_training_publishes_a_model_with_its_reference(folder: Path) -> None:
    reference = Baseline.of_model(folder / EXPORT)
    classifier = Classifier.load(folder / EXPORT)
    assert reference.origin.name == "reference"
    assert reference.origin.model_version == classifier.version
    assert reference.origin.class_list == classifier.info.classes.fingerprint
    assert len(reference) == 51
    assert "51 held-out images" in reference.origin.source


def test_the_final_fit_does_not_see_it(folder: Path, pack: Pack) -> None:
    seen = pack.load("train", "val")
    assert not set(seen.hashes) & set(pack.load("reference").hashes)
    assert f"Final fit on all {len(seen.rows)} images" in (folder / "run" / "train.log").read_text()


def test_an_export_gives_the_same_file(folder: Path, model: Path) -> None:
    export(config_of(folder))
    assert (folder / EXPORT).read_bytes() == model.read_bytes()


def test_an_interrupted_export_keeps_the_previous_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that watches the file would record predictions of a model version that nobody can judge."""
    before = (folder / EXPORT).stat()

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("src.mlops.export.add_reference", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(config_of(folder))
    assert (folder / EXPORT).stat() == before


def test_the_answers_do_not_change(model: Path, pack: Pack) -> None:
    images = pack.load("reference").images[:20]
    before = Classifier.load(model).run(images)
    assert add_reference(model, pack)
    after = Classifier.load(model).run(images)
    assert np.array_equal(before.probabilities, after.probabilities)


def test_other_data_is_refused(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other splits of the same images hold out what the model was trained on."""
    write_kaggle(tmp_path / "raw", classes=3, tracks=136, frames=1)
    other = prepare(config_of(tmp_path, "data.split.seed=7").data)
    before = model.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert not add_reference(model, other)
    assert "may have been trained on the images" in caplog.text
    assert model.read_bytes() == before


def test_few_images_give_a_model_without_a_reference(
    trained: Path, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert not add_reference(path, open_pack(trained / "processed"))
    assert "physical signs; 50 are needed" in caplog.text
    with pytest.raises(DataError, match="contains no reference"):
        Baseline.of_model(path)


def test_a_damaged_reference_is_an_error(model: Path) -> None:
    import onnx

    graph = onnx.load(model)
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    for damaged, error, message in (
        ('"AAAA"', DataError, "is corrupted"),
        ('"not base64!"', DataError, "is corrupted"),
        ("7", CheckpointError, "reference"),
    ):
        onnx.helper.set_model_props(graph, entries | {"reference": damaged})
        onnx.save(graph, model)
        with pytest.raises(error, match=message):
            Baseline.of_model(model)
