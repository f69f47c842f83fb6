"""Training of one model in several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.mlops import ROOT
from src.mlops.data.gtsrb import SIGNS
from src.mlops.data.sketch import members
from src.mlops.model import build_model
from src.mlops.modelfile.checkpoint import load_checkpoint
from src.mlops.training import distributed
from src.mlops.training.train import train
from src.mlops.training.train_loop import State, seed_everything, train_step
from tests.helpers.storage_emulator import free_port
from tests.helpers.tiny import quick_config, tiny_overrides


def torchrun(overrides: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "src.mlops.train", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_two_processes_learn_like_one(tmp_path: Path, raw_dir: Path, checkpoint: Path) -> None:
    alone = train(quick_config([*tiny_overrides(tmp_path / "alone", raw_dir), "training.epochs=12"]))
    options = ["training.epochs=12", "training.frozen_epochs=1", "training.final_fit=true", "training.profile=true"]
    options.append(f"training.start_from={checkpoint}")
    result = torchrun([*tiny_overrides(tmp_path, raw_dir), *options])
    assert result.returncode == 0, result.stderr
    assert "2 x cpu" in result.stderr
    # Only rank 0 logs progress.
    assert result.stderr.lower().count("best epoch") == 1
    loaded = load_checkpoint(tmp_path / "latest/best_model.pth")
    # At most one of the 16 images more is wrong than with one process.
    assert loaded.metrics["val_Accuracy"] >= min(alone["val_Accuracy"], 15 / 16) - 1 / 16
    assert loaded.provenance["trained_on"] == ["train", "val"]
    assert len(members(loaded.provenance["image_sketch"])) == 80
    assert len((tmp_path / "run/final_fit/metrics.csv").read_text().splitlines()) == 13
    assert len((tmp_path / "run/metrics.csv").read_text().splitlines()) == 13
    assert json.loads((tmp_path / "run/config.json").read_text())["training"]["epochs"] == 12


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(16, 3, 24, 24, generator=generator) * 255, torch.arange(16)


def two_steps(overrides: list[str], rank: int, processes: int) -> dict[str, dict[str, torch.Tensor]]:
    """Runs one step in evaluation mode, where splitting a batch changes nothing, and one step in training mode."""
    with distributed.process_group(torch.device("cpu")):
        seed_everything(0)
        config = quick_config(overrides)
        state = State(config, build_model(config.model, 43), steps_per_epoch=10, data_fingerprint="", classes=SIGNS)
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


@pytest.mark.slow
def test_processes_share_gradients_and_statistics(tmp_path: Path, raw_dir: Path) -> None:
    # Plain gradient descent, because Adam would enlarge the smallest differences between gradients.
    descent = ["training.optimizer._target_=torch.optim.SGD", "training.optimizer.lr=1", "training.schedule=constant"]
    overrides = [*tiny_overrides(tmp_path, raw_dir), *descent]
    torch.multiprocessing.spawn(in_process, (free_port(), overrides, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for part in first:
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    # The average of the gradients of both halves is the gradient of the complete batch.
    torch.testing.assert_close(first["first"], two_steps(overrides, 0, 1)["first"], rtol=1e-3, atol=1e-5)


def resume_in_process(rank: int, port: int, overrides: list[str], folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    own = [*overrides, "training.resume=true"] if rank == 0 else [*overrides, f"run_dir={folder / 'elsewhere'}"]
    train(quick_config(own))


@pytest.mark.slow
def test_rank_0_decides_whether_to_resume(tmp_path: Path, raw_dir: Path) -> None:
    """With several machines, only the first has the state of an earlier attempt and the override to resume it."""
    overrides = tiny_overrides(tmp_path, raw_dir)
    assert torchrun(overrides).returncode == 0
    before = (tmp_path / "run/metrics.csv").read_text()
    torch.multiprocessing.spawn(resume_in_process, (free_port(), overrides, tmp_path), nprocs=2)
    assert (tmp_path / "run/metrics.csv").read_text() == before  # all epochs were finished, so none is repeated


@pytest.mark.slow
def test_all_processes_end_if_one_fails(tmp_path: Path, raw_dir: Path) -> None:
    (raw_dir / "Test/00000.png").write_bytes(b"")
    result = torchrun(tiny_overrides(tmp_path, raw_dir))
    assert result.returncode != 0
    assert result.stderr.count("1 bad image") == 1
