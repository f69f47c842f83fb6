"""Training in two processes, as torchrun starts them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.mlops import ROOT
from src.mlops.checkpoint import load_checkpoint
from src.mlops.config import load_config
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import SplitArrays
from src.mlops.train import train
from tests.conftest import tiny_overrides


def torchrun(overrides: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "src.mlops.train", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("images", [64, 65, 66, 79])
def test_shards_see_every_image_once_and_make_the_same_batches(images: int) -> None:
    arrays = SplitArrays(np.zeros((images, 24, 24, 3), np.uint8), np.arange(images), np.zeros(images, np.int64), [])
    alone = list(Batches(arrays, 16, seed=3).order(2))
    shards = [Batches(arrays, 16, seed=3, shard=(rank, 2)) for rank in (0, 1)]
    orders = [list(shard.order(2)) for shard in shards]
    assert len(orders[0]) == len(orders[1]) == len(shards[0])
    for whole, *parts in zip(alone, *orders, strict=False):
        assert sorted(np.concatenate(parts)) == sorted(whole)
        assert len(parts[0])
        assert len(parts[1])
    unshuffled = [np.concatenate(list(Batches(arrays, 16, shard=(rank, 2)).order(0))) for rank in (0, 1)]
    assert sorted(np.concatenate(unshuffled)) == list(range(images))


def test_two_processes_learn_like_one(tmp_path: Path, raw_dir: Path) -> None:
    alone = train(load_config([*tiny_overrides(tmp_path / "alone", raw_dir), "training.epochs=12"]))
    options = ["training.epochs=12", "training.frozen_epochs=1", "training.final_fit=true", "training.profile=true"]
    result = torchrun([*tiny_overrides(tmp_path, raw_dir), *options])
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stderr
    # One process speaks for all.
    assert result.stderr.count("best epoch") == 1
    loaded = load_checkpoint(tmp_path / "latest/best_model.pth")
    # Of 16 images at most one more is wrong than in one process.
    assert loaded.metrics["val_Accuracy"] >= min(alone["val_Accuracy"], 15 / 16) - 1 / 16
    assert loaded.provenance["trained_on"] == ["train", "val"]
    assert len((tmp_path / "run/final_fit/metrics.csv").read_text().splitlines()) == 13
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 13
    assert json.loads((tmp_path / "run/config.json").read_text())["training"]["epochs"] == 12


def test_processes_end_together_when_one_fails(tmp_path: Path, raw_dir: Path) -> None:
    (raw_dir / "Test/00000.png").write_bytes(b"")
    result = torchrun(tiny_overrides(tmp_path, raw_dir))
    assert result.returncode != 0
    assert result.stderr.count("error: 1 bad image") == 1
