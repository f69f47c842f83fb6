"""Checkpoints: valid ones of any config, and hostile or corrupted ones."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from src.mlops.data.gtsrb import SIGNS
from src.mlops.errors import CheckpointError, OutOfMemoryError
from src.mlops.inference.classifier import Classifier
from src.mlops.io.files import to_json
from src.mlops.model import TinyCNN, build_model
from src.mlops.modelfile import metadata
from src.mlops.modelfile.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.modelfile.metadata import FORMAT_VERSION
from src.mlops.modelfile.onnx_export import export


def change(source: Path, target: Path, **changes: Any) -> Path:
    write_content(target, read_plain(source) | changes)
    return target


def test_contains_the_metadata_of_the_model(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    expected = {"git_commit", "created", "versions", "data_fingerprint", "trained_on", "seed", "image_sketch"}
    assert set(loaded.provenance) == expected
    assert loaded.config["data"]["image_size"] == loaded.image_size == 24
    assert loaded.metrics["epoch"] == loaded.epoch
    assert [row["epoch"] for row in loaded.history] == [1, 2]
    assert not loaded.model.training


def test_contains_only_plain_values(checkpoint: Path) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(entry) for key, entry in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in {str, int, float, bool, torch.Tensor}

    content = torch.load(checkpoint, weights_only=True)
    assert plain({**content, "state_dict": dict(content["state_dict"])})


def test_loads_another_model_than_the_yaml_files_name(checkpoint: Path, tmp_path: Path) -> None:
    # configshydra/ has a SignNet of width 24. The config in the file has priority.
    assert build_model({"_target_": "src.mlops.model.SignNet"}, 43).head.in_features == 864
    assert load_checkpoint(checkpoint).model.head.in_features == 144
    content = read_plain(checkpoint)
    config = content["config"] | {"model": {"_target_": "src.mlops.model.TinyCNN", "dropout": 0.1}}
    other = change(checkpoint, tmp_path / "tiny.pth", config=config, state_dict=TinyCNN(43).state_dict())
    assert isinstance(load_checkpoint(other).model, TinyCNN)


class Exploit:
    """Creates a file when an unsafe reader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "hostile.pth", tmp_path / "executed"
    if legacy:
        path.write_bytes(pickle.dumps({"format_version": 1, "state_dict": Exploit(marker)}))
    else:
        torch.save({"format_version": 1, "state_dict": Exploit(marker)}, path)
    with pytest.raises(CheckpointError, match=r"hostile\.pth.*run code"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "model",
    [
        {"_target_": "os.system", "command": "touch executed"},
        {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 3},
        {"_target_": "builtins.eval", "_args_": ["1"]},
    ],
)
def test_target_outside_the_allow_list_is_refused(checkpoint: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    config = read_plain(checkpoint)["config"] | {"model": model}
    path = change(checkpoint, tmp_path / "hostile.pth", config=config)
    with pytest.raises(CheckpointError, match=r"hostile\.pth.*model\._target_.*src\.mlops\.model"):
        load_checkpoint(path)


def test_huge_sizes_allocate_no_memory(checkpoint: Path, tmp_path: Path) -> None:
    config = read_plain(checkpoint)["config"]
    for width in (256, 10**6, 10**30):
        config["model"]["width"] = width
        path = change(checkpoint, tmp_path / "huge.pth", config=config)
        with pytest.raises(CheckpointError, match=r"huge\.pth.*(size mismatch|width.*4 to 256)"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("size", "message"),
    [(200_000, "24 to 512 .*200000"), (-5, "24 to 512 .*-5"), (0, "24 to 512 .*0"), (float("inf"), "infinity")],
)
def test_invalid_image_sizes(checkpoint: Path, tmp_path: Path, size: float, message: str) -> None:
    config = read_plain(checkpoint)["config"]
    config["data"]["image_size"] = size
    with pytest.raises(CheckpointError, match=rf"odd\.pth.*{message}"):
        load_checkpoint(change(checkpoint, tmp_path / "odd.pth", config=config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weight: weight * float("nan"), r"head\.weight.*finite"),
        (lambda weight: weight.double(), r"head\.weight.*float64"),
        (lambda weight: weight.to_sparse(), r"head\.weight.*sparse"),
        (lambda weight: torch.zeros(50, 144), r"size mismatch for head\.weight"),
        (lambda weight: "weight", "AttributeError"),
    ],
)
def test_weights_that_would_break_the_service(checkpoint: Path, tmp_path: Path, damage: Any, message: str) -> None:
    state_dict = dict(read_plain(checkpoint)["state_dict"])
    state_dict["head.weight"] = damage(state_dict["head.weight"])
    with pytest.raises(CheckpointError, match=rf"odd\.pth.*{message}"):
        load_checkpoint(change(checkpoint, tmp_path / "odd.pth", state_dict=state_dict))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, rf"format.*\b{FORMAT_VERSION + 1}\b"),
        ({"format_version": None}, "format.*None"),
        ({"classes": []}, "at least 2 classes"),
        ({"classes": SIGNS.to_dicts()[:42]}, r"head.*\[43"),
        ({"classes": SIGNS.to_dicts()[1:]}, "class 0 is missing"),
        ({"classes": [{"class_id": 0, "name": 7}] * 2}, "name must be a text"),
        ({"config": {}}, "KeyError: 'data'"),
        ({"config": "none"}, "TypeError"),
        ({"state_dict": {}}, "KeyError: 'features"),
        ({"calibration": {"temperature": 0.0}}, "temperature=0.0"),
        ({"calibration": {"warmth": 1.0}}, "'warmth'"),
        ({"history": 3}, "TypeError"),
        ({"epoch": float("inf")}, "infinity"),
        ({"calibration": {"energy_threshold": float("nan")}}, "energy_threshold=nan"),
        ({"calibration": {"unknown_threshold": float("nan")}}, "unknown_threshold=nan"),
        ({"calibration": {"other_classes": -0.1}}, "other_classes=-0.1"),
        ({"calibration": {"penalty": float("inf")}}, "penalty=inf"),
        ({"provenance": {"seed": float("nan")}}, "JSON"),
    ],
)
def test_incomplete_checkpoints(checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = change(checkpoint, tmp_path / "odd.pth", **changes)
    with pytest.raises(CheckpointError, match=rf"odd\.pth.*{message}"):
        load_checkpoint(path)


def test_settings_that_are_refused_today_still_load(checkpoint: Path, tmp_path: Path) -> None:
    config = read_plain(checkpoint)["config"]
    config["training"] |= {"size_schedule": [[512, 0.9], [24, 0.9]], "frozen_epochs": 99, "start_from": "models/x.pt"}
    config |= {"export": {"variant": "fp32"}, "seed": 10**30, "device": "tpu", "ckpt_path": "models/x"}
    loaded = load_checkpoint(change(checkpoint, tmp_path / "old.pth", config=config))
    assert loaded.config == config
    assert Classifier.load(tmp_path / "old.pth").image_size == 24


def test_a_file_without_permission_is_not_called_corrupted(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torch.load", refuse)
    with pytest.raises(CheckpointError, match=rf"^Cannot read {re.escape(str(checkpoint))}: Permission denied"):
        read_plain(checkpoint)


def test_values_that_json_cannot_represent(checkpoint: Path, tmp_path: Path) -> None:
    calibration = {"temperature": 1.0, "set_threshold": float("inf"), "energy_threshold": -1.0, "coverage": 0.999}
    old = change(checkpoint, tmp_path / "old.pth", calibration=calibration, metrics={"loss": float("nan"), "epoch": 3})
    for path in (old, export(old)):
        info = Classifier.load(path).info
        assert info.metrics == {"epoch": 3}
        assert to_json(info.calibration.to_dict())
    facts = {entry.key: entry.value for entry in onnx.load(old.with_suffix(".onnx")).metadata_props}
    assert not any(word in text for text in facts.values() for word in ("Infinity", "NaN"))


@pytest.mark.parametrize("size", [0, 1, 1000, -100])
def test_truncated_files(checkpoint: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.pth"
    path.write_bytes(checkpoint.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"short\.pth"):
        load_checkpoint(path)


def test_content_that_is_too_large(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = tmp_path / "compressed.pth"
    with zipfile.ZipFile(checkpoint) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    size = compressed.stat().st_size
    assert load_checkpoint(compressed).epoch >= 1
    monkeypatch.setattr(metadata, "MAX_FILE_BYTES", size + 1)
    with pytest.raises(CheckpointError, match=rf"compressed\.pth has .* bytes.*{size + 1:,}"):
        load_checkpoint(compressed)


def test_too_little_memory_to_load(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes.")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(OutOfMemoryError, match=r"best_model\.pth"):
        load_checkpoint(checkpoint)


def test_logits_of_a_model_that_fails(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    images, labels = torch.zeros(2, 4, 24, 24), torch.zeros(2)  # four channels
    with pytest.raises(CheckpointError, match=r"best_model\.pth .*RuntimeError: .*channels"):
        loaded.logits([(images, labels)])
    images = torch.full((2, 3, 24, 24), float("nan"))
    with pytest.raises(CheckpointError, match=r"best_model\.pth .*NaN"):
        loaded.logits([(images, labels)])


def test_foreign_files(tmp_path: Path) -> None:
    for name, content in {"text.pth": b"hello", "zeros.pth": b"\0" * 4096}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth.*\blist\b"):
        load_checkpoint(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"none\.pth.*inv train"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(tmp_path))} .*folder"):
        load_checkpoint(tmp_path)


def test_failed_write_keeps_the_previous_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    write_content(path, {"value": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"model\.pth.*No space left"):
        write_content(path, {"value": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
    assert read_plain(path) == {"value": 1}
