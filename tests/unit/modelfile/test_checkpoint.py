"""Checkpoints: good ones from any config, and hostile or damaged ones."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from src.mlops.checkpoint import load_checkpoint, read_plain, write_content
from src.mlops.errors import CheckpointError
from src.mlops.model import TinyCNN, build_model
from src.mlops.model_info import FORMAT_VERSION


def change(source: Path, target: Path, **changes: Any) -> Path:
    write_content(target, read_plain(source) | changes)
    return target


def test_says_all_about_the_model(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    assert set(loaded.provenance) == {"git_commit", "created", "versions", "data_fingerprint", "trained_on", "seed"}
    assert loaded.config["data"]["image_size"] == loaded.image_size == 24
    assert loaded.metrics["epoch"] == loaded.epoch
    assert [row["epoch"] for row in loaded.history] == [1, 2]
    assert not loaded.model.training


def test_holds_plain_values_only(checkpoint: Path) -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(entry) for key, entry in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return value is None or type(value) in {str, int, float, bool, torch.Tensor}

    content = torch.load(checkpoint, weights_only=True)
    assert plain({**content, "state_dict": dict(content["state_dict"])})


def test_loads_another_model_than_todays_yaml_names(checkpoint: Path, tmp_path: Path) -> None:
    # Today's configshydra/ says SignNet of width 24; what counts is what the file says.
    assert build_model({"_target_": "src.mlops.model.SignNet"}).head.in_features == 864
    assert load_checkpoint(checkpoint).model.head.in_features == 144
    content = read_plain(checkpoint)
    config = content["config"] | {"model": {"_target_": "src.mlops.model.TinyCNN", "dropout": 0.1}}
    other = change(checkpoint, tmp_path / "tiny.pth", config=config, state_dict=TinyCNN().state_dict())
    assert isinstance(load_checkpoint(other).model, TinyCNN)


class Bomb:
    """What runs when a naive reader unpickles it."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "hostile.pth", tmp_path / "executed"
    if legacy:
        path.write_bytes(pickle.dumps({"format_version": 1, "state_dict": Bomb(marker)}))
    else:
        torch.save({"format_version": 1, "state_dict": Bomb(marker)}, path)
    with pytest.raises(CheckpointError, match=r"refused .*hostile\.pth.*Nothing was executed"):
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
def test_target_outside_the_list_is_refused(checkpoint: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    config = read_plain(checkpoint)["config"] | {"model": model}
    path = change(checkpoint, tmp_path / "hostile.pth", config=config)
    with pytest.raises(CheckpointError, match=r"refused .*expected model._target_ to be one of src\.mlops\.model"):
        load_checkpoint(path)


def test_absurd_sizes_take_no_memory(checkpoint: Path, tmp_path: Path) -> None:
    config = read_plain(checkpoint)["config"]
    for width in (256, 10**6, 10**30):
        config["model"]["width"] = width
        path = change(checkpoint, tmp_path / "huge.pth", config=config)
        with pytest.raises(CheckpointError, match=r"parts do not fit|width is a whole number from 4 to 256"):
            load_checkpoint(path)


@pytest.mark.parametrize("size", [200_000, -5, 0, float("inf")])
def test_absurd_image_sizes(checkpoint: Path, tmp_path: Path, size: float) -> None:
    config = read_plain(checkpoint)["config"]
    config["data"]["image_size"] = size
    with pytest.raises(CheckpointError, match="parts do not fit"):
        load_checkpoint(change(checkpoint, tmp_path / "odd.pth", config=config))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda weight: weight * float("nan"),
        lambda weight: weight.double(),
        lambda weight: weight.to_sparse(),
        lambda weight: torch.zeros(50, 144),
        lambda weight: "weight",
    ],
)
def test_weights_that_would_break_the_service(checkpoint: Path, tmp_path: Path, spoil: Any) -> None:
    state_dict = dict(read_plain(checkpoint)["state_dict"])
    state_dict["head.weight"] = spoil(state_dict["head.weight"])
    with pytest.raises(CheckpointError, match="parts do not fit"):
        load_checkpoint(change(checkpoint, tmp_path / "odd.pth", state_dict=state_dict))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": FORMAT_VERSION + 1}, f"found format {FORMAT_VERSION + 1}"),
        ({"format_version": None}, "found format None"),
        ({"classes": []}, "43 classes"),
        ({"config": {}}, "parts do not fit"),
        ({"config": "none"}, "parts do not fit"),
        ({"state_dict": {}}, "parts do not fit"),
        ({"calibration": {"temperature": 0.0}}, "parts do not fit"),
        ({"calibration": {"warmth": 1.0}}, "parts do not fit"),
        ({"history": 3}, "parts do not fit"),
        ({"epoch": float("inf")}, "parts do not fit"),
        ({"calibration": {"energy_threshold": float("nan")}}, "parts do not fit"),
    ],
)
def test_incomplete_checkpoints(checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = change(checkpoint, tmp_path / "odd.pth", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("size", [0, 1, 1000, -100])
def test_truncated_files(checkpoint: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.pth"
    path.write_bytes(checkpoint.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"short\.pth"):
        load_checkpoint(path)


def test_foreign_files(tmp_path: Path) -> None:
    for name, content in {"text.pth": b"hello", "zeros.pth": b"\0" * 4096}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds list"):
        load_checkpoint(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="inv train"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="found a folder"):
        load_checkpoint(tmp_path)


def test_failed_write_keeps_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    write_content(path, {"value": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*former file is untouched"):
        write_content(path, {"value": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]
    assert read_plain(path) == {"value": 1}
