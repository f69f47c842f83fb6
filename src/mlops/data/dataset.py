"""The batches that training and evaluation see."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from src.mlops.data.packing import SplitArrays


class Batches:
    """Iterates over the packed images of a split, batch by batch.

    Args:
        arrays: The split's memory-mapped images, rows and labels.
        batch_size: Images per batch; the last batch may be smaller.
        seed: None keeps the order of the split; a number shuffles it, anew for each epoch.
    """

    def __init__(self, arrays: SplitArrays, batch_size: int, seed: int | None = None) -> None:
        self.arrays = arrays
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        """Returns the number of batches of an epoch."""
        return -(-len(self.arrays.rows) // self.batch_size)

    @property
    def image_size(self) -> int:
        """Side of the packed images in px."""
        return int(self.arrays.images.shape[1])

    def epoch(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of one epoch.

        The order depends on seed and epoch alone, so any epoch can be repeated by itself.

        Args:
            epoch: Its number.

        Yields:
            Images, uint8 [B, 3, H, W] in channels-last memory, and labels, int64 [B].
        """
        order = np.arange(len(self.arrays.rows))
        if self.seed is not None:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            images = torch.from_numpy(self.arrays.images[self.arrays.rows[chosen]])
            yield images.permute(0, 3, 1, 2), torch.from_numpy(self.arrays.labels[chosen])
