"""The batches that training and evaluation see."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.mlops.data.packing import SplitArrays, release

_RELEASE_AFTER = 32  # batches; the pages that they map would otherwise pile up to the whole file


class Batches:
    """Iterates over the packed images of a split, batch by batch.

    Args:
        arrays: The split's memory-mapped images, rows and labels.
        batch_size: Images per batch over all processes; the last batch may be smaller.
        seed: None keeps the order of the split; a number shuffles it, anew for each epoch.
        shard: Number of this process and number of processes: each sees its own part of every batch.
    """

    def __init__(
        self, arrays: SplitArrays, batch_size: int, seed: int | None = None, shard: tuple[int, int] = (0, 1)
    ) -> None:
        self.arrays = arrays
        self.batch_size = batch_size
        self.seed = seed
        self.shard = shard

    def __len__(self) -> int:
        """Returns the number of batches of an epoch, the same for all processes."""
        whole, rest = divmod(len(self.arrays.rows), self.batch_size)
        # While training, processes wait for each other, so each needs an image in every batch.
        least = 1 if self.seed is None else self.shard[1]
        return whole + (rest >= least)

    @property
    def image_size(self) -> int:
        """Side of the packed images in px."""
        return int(self.arrays.images.shape[1])

    def order(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Yields for each batch the places of its images in the split, as `epoch` yields the images."""
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

        The order depends on seed and epoch alone, so any epoch can be repeated by itself.

        Args:
            epoch: Its number.

        Yields:
            Images, uint8 [B, 3, H, W] in channels-last memory, and labels, int64 [B].
        """
        for number, chosen in enumerate(self.order(epoch)):
            if number % _RELEASE_AFTER == 0:
                release(self.arrays.images)
            images = torch.from_numpy(self.arrays.images[self.arrays.rows[chosen]])
            yield images.permute(0, 3, 1, 2), torch.from_numpy(self.arrays.labels[chosen])
