"""Batches of images for training and evaluation."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.mlops.data.packing import SplitArrays, release

_RELEASE_AFTER = 32  # batches; otherwise the mapped pages would add up to the complete file


class Batches:
    """Iterates over the packed images of a split, batch by batch.

    Args:
        arrays: The split's memory-mapped images, rows and labels.
        batch_size: Images per batch over all processes. The last batch may be smaller.
        seed: None keeps the order of the split. A number shuffles the images, differently in each epoch.
        shard: Rank of this process and number of processes. Each process gets its own part of every batch.
    """

    def __init__(
        self, arrays: SplitArrays, batch_size: int, seed: int | None = None, shard: tuple[int, int] = (0, 1)
    ) -> None:
        self.arrays = arrays
        self.batch_size = batch_size
        self.seed = seed
        self.shard = shard

    def __len__(self) -> int:
        """Returns the number of batches of an epoch, which is the same for all processes."""
        whole, rest = divmod(len(self.arrays.rows), self.batch_size)
        # During training the processes wait for each other, so each needs at least one image in every batch.
        least = 1 if self.seed is None else self.shard[1]
        return whole + (rest >= least)

    @property
    def image_size(self) -> int:
        """Returns the side of the packed images in px."""
        return int(self.arrays.images.shape[1])

    def order(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Yields the positions of each batch's images in the split, in the order in which `epoch` yields them."""
        order = np.arange(len(self.arrays.rows))
        if self.seed is not None:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        rank, world_size = self.shard
        for batch in range(len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            mine = np.array_split(whole, world_size)[rank]
            if len(mine):
                yield mine

    def epoch(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of one epoch.

        The order depends only on the seed and the epoch, so any epoch can be repeated on its own.

        Args:
            epoch: Number of the epoch.

        Yields:
            Images, uint8 [B, 3, H, W] in channels-last memory, and labels, int64 [B].
        """
        for number, chosen in enumerate(self.order(epoch)):
            if number % _RELEASE_AFTER == 0:
                release(self.arrays.images)
            images = torch.from_numpy(self.arrays.images[self.arrays.rows[chosen]])
            yield images.permute(0, 3, 1, 2), torch.from_numpy(self.arrays.labels[chosen])
