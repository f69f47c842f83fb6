"""Export, its variants, and what must be refused: foreign, damaged, stale and incomplete ONNX files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from src.mlops.calibrate import calibrate
from src.mlops.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.config import Config, load_config
from src.mlops.data.prepare import prepare
from src.mlops.errors import CheckpointError, ConfigError, DataError
from src.mlops.export import OPSET, export
from src.mlops.inference import Classifier
from src.mlops.model import EfficientNetLite0, SignNet, TinyCNN
from src.mlops.pruning import start_from
from src.mlops.train import train
from tests.conftest import tiny_overrides


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, 24, 24, 3), np.uint8)


def rewritten(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    graph = onnx.load(source)
    change(graph)
    onnx.save(graph, target)
    return target


def set_fact(name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        facts = {entry.key: entry.value for entry in graph.metadata_props} | {name: json.dumps(value)}
        helper.set_model_props(graph, facts)

    return change


def test_the_file_alone_is_enough(exported: Path, checkpoint: Path, tmp_path: Path, images: np.ndarray) -> None:
    alone = Path(shutil.copy(exported, tmp_path / "model.onnx"))
    ours, theirs = Classifier.load(checkpoint), Classifier.load(alone)
    assert theirs.info.config == ours.info.config
    assert theirs.info.calibration == ours.info.calibration
    assert theirs.info.provenance == ours.info.provenance
    for found, expected in zip(theirs.run(images), ours.run(images), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_graph_keeps_its_contract(exported: Path) -> None:
    graph = onnx.load(exported)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.opset_import[0].version == OPSET
    [images] = graph.graph.input
    assert images.type.tensor_type.elem_type == TensorProto.UINT8
    assert [output.name for output in graph.graph.output] == ["probabilities", "embedding", "energy", "evidence"]


def test_evidence_adds_up_to_the_logits(checkpoint: Path, images: np.ndarray) -> None:
    classifier = Classifier.load(checkpoint)
    outputs = classifier.run(images)
    model = load_checkpoint(checkpoint).model
    assert outputs.evidence is not None
    logits = outputs.evidence.sum(axis=(2, 3)) + model.head.bias.detach().numpy()
    scaled = np.exp(logits / classifier.info.calibration.temperature)
    np.testing.assert_allclose(scaled / scaled.sum(axis=1, keepdims=True), outputs.probabilities, atol=1e-5)


@pytest.mark.parametrize("model", [TinyCNN(), EfficientNetLite0(weights=None)])
def test_other_networks_export_too(
    checkpoint: Path, tmp_path: Path, images: np.ndarray, model: TinyCNN | EfficientNetLite0
) -> None:
    content = read_plain(checkpoint)
    target = f"src.mlops.model.{type(model).__name__}"
    arguments = {"weights": None} if isinstance(model, EfficientNetLite0) else {}
    content["config"]["model"] = {"_target_": target, **arguments}
    write_content(tmp_path / "other.pth", content | {"state_dict": model.state_dict()})
    file = export(tmp_path / "other.pth")
    found = Classifier.load(file).run(images)
    expected = Classifier.load(tmp_path / "other.pth").run(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    assert (found.evidence is None) == isinstance(model, TinyCNN)


def test_int8_is_small_and_close(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A width at which weights, not metadata, make up the file.
    content = read_plain(checkpoint)
    content["config"]["model"] = {"_target_": "src.mlops.model.SignNet", "width": 24}
    write_content(tmp_path / "wide.pth", content | {"state_dict": SignNet(24).state_dict()})
    images = np.random.default_rng(2).integers(0, 256, (128, 24, 24, 3), np.uint8)
    whole, small = export(tmp_path / "wide.pth"), export(tmp_path / "wide.pth", images)
    assert small.name == "wide.int8.onnx"
    assert small.stat().st_size < whole.stat().st_size / 3.5
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    found, expected = Classifier.load(small).run(images), Classifier.load(whole).run(images)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=0.05)


def test_training_leaves_a_pair_that_serves(make_config: Callable[..., Config], tmp_path: Path) -> None:
    train(make_config("training.export=true", "training.epochs=1"))
    assert Classifier.load(tmp_path / "latest/best_model.onnx").info.metrics["epoch"] == 1


class TestPruning:
    def test_keeps_the_strongest_channels(self) -> None:
        wide, narrow = SignNet(8).eval(), SignNet(4).eval()
        # Channels whose scale is zero add nothing: without them the answers stay.
        for name, layer in wide.named_modules():
            if name.endswith(".1") and hasattr(layer, "running_mean"):
                layer.weight.data[::2] = 0
                layer.bias.data[::2] = 0
        start_from(narrow, wide)
        images = np.random.default_rng(0).integers(0, 256, (3, 3, 48, 48), np.uint8)
        import torch

        with torch.inference_mode():
            torch.testing.assert_close(narrow(torch.from_numpy(images)), wide(torch.from_numpy(images)))

    def test_a_training_starts_from_a_checkpoint(self, make_config: Callable[..., Config], checkpoint: Path) -> None:
        train(make_config(f"training.start_from={checkpoint}"))

    def test_refuses_a_model_that_has_seen_the_validation_images(
        self, make_config: Callable[..., Config], checkpoint: Path, tmp_path: Path
    ) -> None:
        content = read_plain(checkpoint)
        content["provenance"]["trained_on"] = ["train", "val"]
        write_content(tmp_path / "final.pth", content)
        with pytest.raises(ConfigError, match="has not seen the validation images"):
            train(make_config(f"training.start_from={tmp_path}/final.pth"))

    @pytest.mark.parametrize("source", [SignNet(4), TinyCNN()])
    def test_refuses_what_does_not_fit(self, source: SignNet | TinyCNN) -> None:
        with pytest.raises(ConfigError, match=r"expected training\.start_from to be a checkpoint of SignNet"):
            start_from(SignNet(8), source)


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "damaged or foreign file"),
            (b"no model", "damaged or foreign file"),
            (b"\x08\x0a" * 4000, "damaged or foreign file"),
        ],
    )
    def test_no_onnx(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            Classifier.load(tmp_path / "model.onnx")

    def test_truncated(self, tmp_path: Path, exported: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(exported.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match="expected"):
            Classifier.load(tmp_path / "model.onnx")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"expected a model file at .*none.onnx, found: No such file"):
            Classifier.load(tmp_path / "none.onnx")

    def test_another_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "model.txt").write_text("hello")
        with pytest.raises(CheckpointError, match=r"ends in .onnx or .pth"):
            Classifier.load(tmp_path / "model.txt")

    def test_foreign_onnx(self, tmp_path: Path) -> None:
        node = helper.make_node("Relu", ["x"], ["y"])
        put = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        graph = helper.make_graph([node], "g", put[:1], put[1:])
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10),
            tmp_path / "relu.onnx",
        )
        with pytest.raises(CheckpointError, match="with the metadata of this project"):
            Classifier.load(tmp_path / "relu.onnx")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("format_version", 99, "found format 99"),
            ("classes", [{"name": "cat"}], "expected the 43 classes of GTSRB, found 1 others"),
            ("calibration", {"temperature": -1}, "whose parts do not fit"),
            ("calibration", {"heat": 1}, "whose parts do not fit"),
            ("config", {"data": {"image_size": 32}}, "whose parts do not fit"),
            ("config", [], "whose parts do not fit"),
        ],
    )
    def test_other_facts(self, exported: Path, tmp_path: Path, name: str, value: object, message: str) -> None:
        changed = rewritten(exported, tmp_path / "model.onnx", set_fact(name, value))
        with pytest.raises(CheckpointError, match=message):
            Classifier.load(changed)

    def test_export_of_another_checkpoint(self, exported: Path, checkpoint: Path, tmp_path: Path) -> None:
        shutil.copy(exported, tmp_path / "best_model.onnx")
        write_content(tmp_path / "best_model.pth", read_plain(checkpoint) | {"epoch": 99})
        with pytest.raises(CheckpointError, match="found that of another checkpoint"):
            Classifier.load(tmp_path / "best_model.onnx")

    def test_quantised_export_of_another_checkpoint(self, exported: Path, checkpoint: Path, tmp_path: Path) -> None:
        shutil.copy(exported, tmp_path / "best_model.int8.onnx")
        write_content(tmp_path / "best_model.pth", read_plain(checkpoint) | {"epoch": 99})
        with pytest.raises(CheckpointError, match="found that of another checkpoint"):
            Classifier.load(tmp_path / "best_model.int8.onnx")

    def test_deeply_nested_facts(self, exported: Path, tmp_path: Path) -> None:
        def change(graph: onnx.ModelProto) -> None:
            helper.set_model_props(graph, {"config": "[" * 100_000})

        with pytest.raises(CheckpointError, match="whose parts do not fit"):
            Classifier.load(rewritten(exported, tmp_path / "deep.onnx", change))

    def test_nothing_is_overwritten_when_a_write_fails(self, checkpoint: Path, tmp_path: Path) -> None:
        shutil.copy(checkpoint, tmp_path / "best_model.pth")
        (tmp_path / "best_model.onnx").mkdir()
        with pytest.raises(CheckpointError, match="The former file is untouched"):
            export(tmp_path / "best_model.pth")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class TestCalibrate:
    def config(self, trained: Path, checkpoint: Path, *overrides: str) -> Config:
        return load_config([*tiny_overrides(trained, trained / "raw"), f"ckpt_path={checkpoint}", *overrides])

    def test_changes_coverage(self, trained: Path, checkpoint: Path, tmp_path: Path) -> None:
        own = Path(shutil.copy(checkpoint, tmp_path / "best_model.pth"))
        calibrate(self.config(trained, own, "calibration.coverage=0.8"))
        assert load_checkpoint(own).calibration.coverage == 0.8

    def test_refuses_a_final_fit(self, trained: Path, checkpoint: Path, tmp_path: Path) -> None:
        content = read_plain(checkpoint)
        content["provenance"]["trained_on"] = ["train", "val"]
        write_content(tmp_path / "final.pth", content)
        with pytest.raises(DataError, match="not trained on validation images"):
            calibrate(self.config(trained, tmp_path / "final.pth"))

    def test_refuses_other_data(self, checkpoint: Path, make_config: Callable[..., Config]) -> None:
        config = make_config("data.split.seed=7", "data.split.test_size=0.5")
        prepare(config.data)
        with pytest.raises(DataError, match="found other splits"):
            calibrate(config.replace({"ckpt_path": str(checkpoint)}))
