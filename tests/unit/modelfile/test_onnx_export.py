"""Exports, and ONNX files that must be refused: foreign, corrupted, stale and incomplete ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from src.mlops.errors import CheckpointError
from src.mlops.inference.classifier import Classifier
from src.mlops.modelfile import metadata
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.modelfile.onnx_export import OPSET
from tests.helpers.graphs import rewritten


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (9, 24, 24, 3), np.uint8)


def set_fact(name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        facts = {entry.key: entry.value for entry in graph.metadata_props} | {name: json.dumps(value)}
        helper.set_model_props(graph, facts)

    return change


def test_the_exported_file_needs_no_other_file(
    exported: Path, checkpoint: Path, tmp_path: Path, images: np.ndarray
) -> None:
    alone = Path(shutil.copy(exported, tmp_path / "model.onnx"))
    ours, theirs = Classifier.load(checkpoint), Classifier.load(alone)
    assert theirs.info.config == ours.info.config
    assert theirs.info.calibration == ours.info.calibration
    assert theirs.info.provenance == ours.info.provenance
    for found, expected in zip(theirs.run(images), ours.run(images), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_graph_has_the_documented_inputs_and_outputs(exported: Path) -> None:
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


def test_infinite_thresholds_of_earlier_releases(exported: Path, tmp_path: Path, images: np.ndarray) -> None:
    old = {"temperature": 1.0, "set_threshold": float("inf"), "energy_threshold": float("inf"), "coverage": 0.999}
    classifier = Classifier.load(rewritten(exported, tmp_path / "model.onnx", set_fact("calibration", old)))
    for prediction in classifier.classify_arrays(images):
        assert prediction.prediction_set == list(range(43))
        assert not prediction.is_unknown


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"model\.onnx.*\(0 bytes"),
            (b"no model", r"model\.onnx.*\(8 bytes"),
            (b"\x08\x0a" * 4000, r"model\.onnx.*\(8,000 bytes"),
        ],
    )
    def test_no_onnx(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            Classifier.load(tmp_path / "model.onnx")

    def test_truncated(self, tmp_path: Path, exported: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(exported.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match=r"model\.onnx"):
            Classifier.load(tmp_path / "model.onnx")

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"none\.onnx.*No such file.*inv train"):
            Classifier.load(tmp_path / "none.onnx")

    def test_another_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "model.txt").write_text("hello")
        with pytest.raises(CheckpointError, match=r"\.onnx or \.pth.*model\.txt"):
            Classifier.load(tmp_path / "model.txt")

    def test_foreign_onnx(self, tmp_path: Path) -> None:
        node = helper.make_node("Relu", ["x"], ["y"])
        put = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
        graph = helper.make_graph([node], "g", put[:1], put[1:])
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10),
            tmp_path / "relu.onnx",
        )
        with pytest.raises(CheckpointError, match=r"relu\.onnx.*metadata.*inv model\.export"):
            Classifier.load(tmp_path / "relu.onnx")

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("format_version", 99, r"format.*\b99\b"),
            ("classes", [{"name": "cat"}], "class_id must be a whole number"),
            ("classes", [{"class_id": c, "name": name} for c, name in enumerate("ab")], r"'probabilities': .*43"),
            ("calibration", {"temperature": -1}, "temperature=-1"),
            ("calibration", {"heat": 1}, "'heat'"),
            ("config", {"data": {"image_size": 32}}, r"\[3, 24, 24\]"),
            ("config", [], "TypeError"),
            ("provenance", {"seed": float("inf")}, "JSON"),
        ],
    )
    def test_other_facts(self, exported: Path, tmp_path: Path, name: str, value: object, message: str) -> None:
        changed = rewritten(exported, tmp_path / "model.onnx", set_fact(name, value))
        with pytest.raises(CheckpointError, match=rf"model\.onnx.*{message}"):
            Classifier.load(changed)

    def test_export_of_another_checkpoint(self, exported: Path, checkpoint: Path, tmp_path: Path) -> None:
        shutil.copy(exported, tmp_path / "best_model.onnx")
        write_content(tmp_path / "best_model.pth", read_plain(checkpoint) | {"epoch": 99})
        with pytest.raises(CheckpointError, match=r"best_model\.onnx.*best_model\.pth.*inv model\.export"):
            Classifier.load(tmp_path / "best_model.onnx")

    @pytest.mark.parametrize("variant", ["int8", "fp16"])
    def test_smaller_export_of_another_checkpoint(
        self, exported: Path, checkpoint: Path, tmp_path: Path, variant: str
    ) -> None:
        shutil.copy(exported, tmp_path / f"best_model.{variant}.onnx")
        write_content(tmp_path / "best_model.pth", read_plain(checkpoint) | {"epoch": 99})
        with pytest.raises(CheckpointError, match=rf"best_model\.{variant}\.onnx.*best_model\.pth.*inv model\.export"):
            Classifier.load(tmp_path / f"best_model.{variant}.onnx")

    def test_too_much_metadata(self, exported: Path, tmp_path: Path) -> None:
        def change(graph: onnx.ModelProto) -> None:
            graph.metadata_props.add(key="notes", value=f'"{"x" * metadata.MAX_METADATA_CHARACTERS}"')

        with pytest.raises(CheckpointError, match=r"notes\.onnx have 4,0\d\d,\d{3} .*4,000,000"):
            Classifier.load(rewritten(exported, tmp_path / "notes.onnx", change))

    @pytest.mark.parametrize("suffix", [".onnx", ".pth"])
    def test_too_large_files_are_not_read(self, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / f"model{suffix}"
        with path.open("wb") as file:
            file.truncate(metadata.MAX_FILE_BYTES + 1)  # a sparse file, which needs no space
        monkeypatch.setattr(Path, "read_bytes", pytest.fail)
        with pytest.raises(CheckpointError, match=rf"model\{suffix} has 1,000,000,001 bytes.*1,000,000,000"):
            Classifier.load(path)

    def test_deeply_nested_facts(self, exported: Path, tmp_path: Path) -> None:
        def change(graph: onnx.ModelProto) -> None:
            helper.set_model_props(graph, {"config": "[" * 100_000})

        with pytest.raises(CheckpointError, match=r"deep\.onnx.*RecursionError"):
            Classifier.load(rewritten(exported, tmp_path / "deep.onnx", change))
