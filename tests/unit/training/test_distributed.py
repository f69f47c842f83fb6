"""Batches in several processes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from src.mlops import ROOT
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import SplitArrays
from src.mlops.errors import ConfigError
from src.mlops.training.distributed import process_group


def torchrun(overrides: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "src.mlops.train", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("images", [64, 65, 66, 79])
def test_shards_contain_every_image_once_and_form_the_same_batches(images: int) -> None:
    arrays = SplitArrays(np.zeros((images, 24, 24, 3), np.uint8), np.arange(images), np.zeros(images, np.int64), [], [])
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


def test_several_processes_cannot_use_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match=r"2 processes.*device=cuda:1.*CUDA_VISIBLE_DEVICES"),
        process_group(torch.device("cuda", 1)),
    ):
        pass
