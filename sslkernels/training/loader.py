# SPDX-License-Identifier: Apache-2.0
"""Batches of images in memory; their order depends on seed, epoch and rank alone."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.distributed import DistributedSampler


class Images(TorchDataset):
    """Images that are indexed a batch at a time: collating them one by one would cost more than a step on digits."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images[indices]


class ImageBatches(LightningDataModule):
    """Shuffled batches of ``batch_size`` images over all ranks; an incomplete last batch is dropped."""

    def __init__(self, images: Tensor, batch_size: int, seed: int) -> None:
        super().__init__()
        self.images = Images(images)
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        # One rank needs it too: Lightning tells it the epoch, and the order follows from seed and epoch.
        sampler = DistributedSampler(self.images, ranks, rank, seed=self.seed, drop_last=True)
        return DataLoader(
            self.images, self.batch_size // ranks, sampler=sampler, drop_last=True, collate_fn=torch.as_tensor
        )
