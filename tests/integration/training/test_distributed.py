"""Training in two processes, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from src.mlops import ROOT, distributed
from src.mlops.checkpoint import load_checkpoint
from src.mlops.config import load_config
from src.mlops.data.dataset import Batches
from src.mlops.data.packing import SplitArrays
from src.mlops.loop import State, seed_everything, train_step
from src.mlops.model import build_model
from src.mlops.train import train
from tests.conftest import tiny_overrides
from tests.emulator import free_port


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


@pytest.mark.slow
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


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(16, 3, 24, 24, generator=generator) * 255, torch.arange(16)


def two_steps(overrides: list[str], rank: int, processes: int) -> dict[str, dict[str, torch.Tensor]]:
    """Steps once as in evaluation, where parts of a batch do not differ from the whole, and once as in training."""
    with distributed.process_group(torch.device("cpu")):
        seed_everything(0)
        config = load_config(overrides)
        state = State(config, build_model(config.model), steps_per_epoch=10, data_fingerprint="")
        state.start_epoch()
        state.model.eval()
        images, labels = (part.chunk(processes)[rank] for part in batch())
        train_step(state, images, labels)
        found = {"first": {name: value.clone() for name, value in state.model.named_parameters()}}
        state.model.train()
        train_step(state, images, labels)
        distributed.share_buffers(state.averaged.module)
        return found | {"second": dict(state.model.named_parameters()), "averaged": state.averaged.module.state_dict()}


def in_process(rank: int, port: int, overrides: list[str], folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.save(two_steps(overrides, rank, 2), folder / f"{rank}.pt")


def test_processes_share_gradients_and_statistics(tmp_path: Path, raw_dir: Path) -> None:
    # Plain gradient descent: Adam would make of each gradient, however small, a step of one size.
    descent = ["training.optimizer._target_=torch.optim.SGD", "training.optimizer.lr=1", "training.schedule=constant"]
    overrides = [*tiny_overrides(tmp_path, raw_dir), *descent]
    torch.multiprocessing.spawn(in_process, (free_port(), overrides, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for part in first:
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    # The average of the halves' gradients is the gradient of the whole.
    torch.testing.assert_close(first["first"], two_steps(overrides, 0, 1)["first"], rtol=1e-3, atol=1e-5)


def resume_in_process(rank: int, port: int, overrides: list[str], folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    own = [*overrides, "training.resume=true"] if rank == 0 else [*overrides, f"run_dir={folder / 'elsewhere'}"]
    train(load_config(own))


@pytest.mark.slow
def test_the_first_process_decides_whether_to_resume(tmp_path: Path, raw_dir: Path) -> None:
    """Of several machines only the first has the state of an earlier attempt, and is told to go on with it."""
    overrides = tiny_overrides(tmp_path, raw_dir)
    assert torchrun(overrides).returncode == 0
    before = (tmp_path / "run/metrics.csv").read_text()
    torch.multiprocessing.spawn(resume_in_process, (free_port(), overrides, tmp_path), nprocs=2)
    assert (tmp_path / "run/metrics.csv").read_text() == before  # all epochs were done; none is begun anew


def test_processes_end_together_when_one_fails(tmp_path: Path, raw_dir: Path) -> None:
    (raw_dir / "Test/00000.png").write_bytes(b"")
    result = torchrun(tiny_overrides(tmp_path, raw_dir))
    assert result.returncode != 0
    assert result.stderr.count("error: 1 bad image") == 1
