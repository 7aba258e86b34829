# SPDX-License-Identifier: Apache-2.0
"""Batches of samples; their order depends on seed, epoch and rank alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.distributed import DistributedSampler

from sslkernels.data import Dataset, Pictures
from sslkernels.data.pictures import usual_workers

# Batches that each process has ready beyond the one that is trained on.
READY = 4


class Samples(TorchDataset):
    """The training samples, taken a batch at a time: collating them one by one would cost more than a step on digits.

    A batch is the inputs, or ``(inputs, {"index": ..., ...})`` where a method needs more of each sample. Where samples
    have partners, inputs are ``(N, 1 + P, ...)``: each sample and its partners.
    """

    def __init__(self, dataset: Dataset, needs: Sequence[str] = ()) -> None:
        self.inputs = dataset.inputs
        self.partners = dataset.partners
        self.given = {name: known(dataset)[name] for name in needs}

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, rows: list[int]) -> Any:
        inputs = self.taken(rows)
        return (inputs, {name: values[rows] for name, values in self.given.items()}) if self.given else inputs

    def first(self, count: int, device: torch.device) -> tuple[Any, dict[str, Tensor]]:
        """Take the first samples, and what is given of them, to ``device``."""
        rows = list(range(min(count, len(self))))
        return self.taken(rows).to(device), {name: values[rows].to(device) for name, values in self.given.items()}

    def taken(self, rows: list[int]) -> Any:
        """Take samples, each with its partners if it has some."""
        if self.partners is None:
            return self.inputs[rows]
        shots = torch.cat([torch.tensor(rows)[:, None], self.partners[rows]], 1)
        return self.inputs[shots.flatten()].unflatten(0, shots.shape)


class Batches(LightningDataModule):
    """Shuffled batches of ``batch_size`` training samples over all ranks; an incomplete last batch is dropped.

    Pictures that stay in their files are read by ``workers`` processes beside the training; None takes one for each
    processor. ``first_epoch`` is the number of epochs that a resumed run has behind it. ``inputs`` are the training
    samples in order, for `sslkernels.methods.Method.before_epoch`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        needs: Sequence[str] = (),
        *,
        workers: int | None = None,
        first_epoch: int = 0,
    ) -> None:
        super().__init__()
        self.samples = Samples(dataset, needs)
        self.inputs = dataset.inputs
        self.batch_size = batch_size
        self.seed = seed
        self.first_epoch = first_epoch
        self.workers = 0
        if isinstance(self.inputs, Pictures):
            self.workers = usual_workers() if workers is None else workers

    def train_dataloader(self) -> DataLoader:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        # One rank needs it too: Lightning tells it the epoch, and the order follows from seed and epoch.
        sampler = DistributedSampler(self.samples, ranks, rank, seed=self.seed, drop_last=True)
        # Lightning begins to read before it tells the epoch, and processes ask for their first batches at once.
        sampler.set_epoch(self.first_epoch)
        beside: dict[str, Any] = {}
        if self.workers:
            beside = {"num_workers": self.workers, "persistent_workers": True, "prefetch_factor": READY}
        return DataLoader(
            self.samples,
            self.batch_size // ranks,
            sampler=sampler,
            drop_last=True,
            collate_fn=_whole,
            pin_memory=self.workers > 0 and torch.cuda.is_available(),
            **beside,
        )


@contextmanager
def reading() -> Iterator[None]:
    """Let errors of the processes that read files come out as their own sentences."""
    try:
        yield
    except (ValueError, OSError) as error:
        if "DataLoader worker process" not in str(error):
            raise
        raise type(error)(str(error).rstrip().rpartition("\n")[2].partition(": ")[2]) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(
            "train: a process that reads files was ended; was there too little memory? Continue with --resume, with "
            "fewer --workers."
        ) from error


def known(dataset: Dataset) -> dict[str, Tensor]:
    """Collect what is known of each training sample besides the sample, by the names that `Method.needs` takes."""
    labels = {} if dataset.labels is None else {"label": dataset.labels}
    return {"index": torch.arange(len(dataset.inputs)), **labels, **dataset.extra}


def _whole(batch: Any) -> Any:
    """Leave a batch as `Samples` took it."""
    return batch
