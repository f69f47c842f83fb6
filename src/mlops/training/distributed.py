"""Training in several processes, started by torchrun. With a single process, these functions do not communicate."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from src.mlops.errors import ConfigError

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the process group that torchrun started: NCCL between GPUs, Gloo between CPUs."""
    if processes() == 1:
        yield
        return
    if ":" in str(device):
        raise ConfigError(
            f"With {processes()} processes, each uses its own GPU, so device={device} cannot be used. Use device=cuda, "
            "and choose the GPUs with the environment variable CUDA_VISIBLE_DEVICES."
        )
    if device.type == "cuda":
        torch.cuda.set_device(_local_rank())
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if rank() > 0:
        logging.getLogger("src.mlops").setLevel(logging.WARNING)  # only rank 0 logs progress
    try:
        yield
    finally:
        distributed.destroy_process_group()


def processes() -> int:
    """Returns the number of processes that torchrun started, also before they have joined the process group."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns the rank of this process, 0 to `world_size() - 1`."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def shard() -> tuple[int, int]:
    """Returns the rank of this process and the number of processes, in the form that `Batches` takes."""
    return rank(), world_size()


def first_on_each_node(work: Callable[[], T]) -> T:
    """Runs `work`, such as preparing data, in one process per machine first, and then in the others."""
    if world_size() == 1 or _local_rank() == 0:
        return _all_or_none(work)
    _all_or_none(lambda: None)
    return work()


def from_rank_0(work: Callable[[], T]) -> T:
    """Runs `work` on rank 0 and returns its result on all ranks."""
    result: list[Any] = [_all_or_none(work if rank() == 0 else lambda: None)]
    if world_size() > 1:
        distributed.broadcast_object_list(result)
    return result[0]  # type: ignore[no-any-return]


def share_gradients(model: nn.Module) -> nn.Module:
    """Returns a model whose gradients are averaged over all processes."""
    return DistributedDataParallel(model) if world_size() > 1 else model


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sums a tensor over all processes, in place, and returns it."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def share_buffers(model: nn.Module) -> None:
    """Copies the buffers of rank 0 to all ranks, because the running statistics of BatchNorm differ slightly."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def gather_rows(rows: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gathers the rows that the processes computed.

    Args:
        rows: The rows of this process, float32 [M, D].
        places: The indices of these rows in the result, int64 [M]. Together, the processes have the indices 0 to N - 1.

    Returns:
        All rows in order, float32 [N, D], on every rank.
    """
    if world_size() == 1:
        return rows
    parts: list[Any] = [None] * world_size()
    distributed.all_gather_object(parts, (places, rows))
    whole = np.empty((sum(len(part) for part, _ in parts), rows.shape[1]), np.float32)
    for part, values in parts:
        whole[part] = values
    return whole


def _all_or_none(work: Callable[[], T]) -> T:
    """Runs `work` in each process. If it fails in one, that process raises and the others exit instead of waiting."""
    if world_size() == 1:
        return work()
    error: Exception | None = None
    try:
        result = work()
    except Exception as caught:
        error = caught
    failures: list[Any] = [None] * world_size()
    distributed.all_gather_object(failures, error is not None)
    if error:
        raise error
    if any(failures):
        sys.exit(1)
    return result


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
