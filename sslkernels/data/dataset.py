# SPDX-License-Identifier: Apache-2.0
"""A data set in memory, and the fixed split of data that comes without one."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from sslkernels.arguments import MEMORY

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Dataset:
    """Images float32 ``(N, C, H, W)`` in [0, 1] and labels int64 ``(N,)``, which only the evaluation reads.

    If there are no labels, or all are alike, ``classes`` is empty and the labels are None.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None


def split(name: str, classes: tuple[str, ...], images: Tensor, labels: Tensor | None) -> Dataset:
    """Hold a fifth of the images out for tests."""
    kept, held_out = held_out_fifth(name, classes, labels, len(images))
    if labels is None:
        return Dataset(name, (), images[kept], None, images[held_out], None)
    return Dataset(name, classes, images[kept], labels[kept], images[held_out], labels[held_out])


def held_out_fifth(name: str, classes: tuple[str, ...], labels: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the images kept, and of a fifth held out: of each class, or of all if there are no labels.

    The choice does not depend on the run's seed.
    """
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    groups = {"it": torch.arange(count)}
    if labels is not None:
        groups = {f"class {each!r}": (labels == label).nonzero()[:, 0] for label, each in enumerate(classes)}
    for group, members in groups.items():
        members = members[torch.randperm(len(members), generator=generator)]
        tested = round(TEST_FRACTION * len(members))
        if not 0 < tested < len(members):
            each = "" if labels is None else " of each class"
            raise ValueError(
                f"{name}: {group} has {len(members)} images; a split into training and test needs at least 3{each}."
            )
        test.append(members[:tested])
        train.append(members[tested:])
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def check_memory(what: str, shape: tuple[int, ...], itemsize: int, remedy: str) -> None:
    """Check, before any is read, that the memory holds so many numbers of ``itemsize`` bytes, all copies included."""
    needed = itemsize * prod(shape)
    if needed > MEMORY:
        raise ValueError(
            f"{what} of shape {shape} need {needed / 2**30:,.0f} GiB, and this machine has {MEMORY / 2**30:,.0f}; "
            f"{remedy}."
        )
