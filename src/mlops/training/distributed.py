"""Training in several processes, started by torchrun. One process is the ordinary case and passes through untouched."""

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

T = TypeVar("T")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started: nccl between GPUs, gloo between CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(_local_rank())
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if rank() > 0:
        logging.getLogger("src.mlops").setLevel(logging.WARNING)  # one process speaks for all
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Returns this process's number, 0 to `world_size() - 1`."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def shard() -> tuple[int, int]:
    """Returns this process's number and the number of processes, as `Batches` takes them."""
    return rank(), world_size()


def first_on_each_node(work: Callable[[], T]) -> T:
    """Lets one process of each machine do what the others then find done, such as preparing data."""
    if world_size() == 1 or _local_rank() == 0:
        return _all_or_none(work)
    _all_or_none(lambda: None)
    return work()


def from_rank_0(work: Callable[[], T]) -> T:
    """Runs `work` in the first process and hands its result to all."""
    result: list[Any] = [_all_or_none(work if rank() == 0 else lambda: None)]
    if world_size() > 1:
        distributed.broadcast_object_list(result)
    return result[0]  # type: ignore[no-any-return]


def share_gradients(model: nn.Module) -> nn.Module:
    """Wraps a model so that its gradients are averaged over all processes."""
    return DistributedDataParallel(model) if world_size() > 1 else model


def sum_over_ranks(values: Tensor) -> Tensor:
    """Adds a tensor up over all processes, in place."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def share_buffers(model: nn.Module) -> None:
    """Gives all processes the first one's buffers: the running statistics of BatchNorm differ slightly."""
    if world_size() > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def gather_rows(rows: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Puts the rows that the processes computed together.

    Args:
        rows: This process's rows, float32 [M, D].
        places: Their places in the whole, int64 [M]; the processes' places together are 0 to N - 1.

    Returns:
        All rows in order, float32 [N, D], in every process.
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
    """Runs `work` in each process; where it fails in one, that one raises and the others end instead of waiting."""
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
