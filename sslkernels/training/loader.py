# SPDX-License-Identifier: Apache-2.0
"""Batches of images in memory, in an order that is a function of seed, epoch and rank alone."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.distributed import DistributedSampler


class Images(TorchDataset):
    """Whole batches by one indexing, where collating image by image would cost more than a step on digits."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[indices]


class ImageBatches(LightningDataModule):
    """Shuffled batches of ``batch_size`` images over all ranks; the rest of an epoch is left out."""

    def __init__(self, images: Tensor, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images = Images(images)
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        # With one rank too: its order follows from seed and epoch, and Lightning tells it the epoch.
        sampler = DistributedSampler(self.images, ranks, rank, seed=self.seed, drop_last=True)
        return DataLoader(
            self.images, self.batch_size // ranks, sampler=sampler, drop_last=True, collate_fn=torch.as_tensor
        )
