# SPDX-License-Identifier: Apache-2.0
"""A data set in memory, the fixed split of those that have none, and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Dataset:
    """Images float32 ``(N, C, H, W)`` in [0, 1] and labels int64 ``(N,)``, which only the evaluation reads."""

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(spec: str, image_size: int = 32) -> Dataset:
    """The data set that ``spec`` names.

    Args:
        spec: ``"digits"`` (1,797 handwritten digits of 8x8 that come with scikit-learn), ``"imagefolder:PATH"`` (one
            folder per class, with or without ``train/`` and ``test/`` above them), ``"cifar10:PATH"`` (the binary
            version) or ``"npz:PATH"`` (arrays ``images``, ``labels``; optionally ``test_images``, ``test_labels``).
        image_size: height and width that the images of an ``imagefolder`` are cropped and resized to.

    Raises:
        ValueError: the spec or a file's content is wrong. FileNotFoundError: nothing is at PATH.

    >>> from sslkernels.data import load
    >>> load("digits").train_images.shape
    torch.Size([1438, 1, 8, 8])
    """
    dataset = _load(spec, image_size)
    if len(dataset.classes) < 2:
        raise ValueError(f"data is {spec!r} and holds one class; the evaluation compares at least two.")
    train, test = tuple(dataset.train_images.shape[1:]), tuple(dataset.test_images.shape[1:])
    if train != test:
        raise ValueError(f"data is {spec!r} with training images of {train} and test images of {test}; use one size.")
    if len(dataset.test_images) < 2:
        raise ValueError(f"data is {spec!r} and holds out {len(dataset.test_images)} image; the report needs two.")
    return dataset


def _load(spec: str, image_size: int) -> Dataset:
    kind, separator, path = spec.partition(":")
    if spec == "digits":
        from sslkernels.data.digits import load_digits

        return load_digits()
    if kind not in ("imagefolder", "cifar10", "npz") or not separator:
        raise ValueError(f"data is {spec!r}; accepted are digits, imagefolder:PATH, cifar10:PATH and npz:PATH.")
    if not path:
        raise ValueError(f"data is {spec!r}, which names no path; write {kind}:PATH.")
    if not Path(path).exists():
        raise FileNotFoundError(f"data is {spec!r} and {path} does not exist; pass the path of data that is there.")
    if kind == "imagefolder":
        from sslkernels.data.imagefolder import load_imagefolder

        return load_imagefolder(Path(path), image_size)
    if kind == "cifar10":
        from sslkernels.data.cifar10 import load_cifar10

        return load_cifar10(Path(path))
    from sslkernels.data.npz import load_npz

    return load_npz(Path(path))


def split(name: str, classes: tuple[str, ...], images: Tensor, labels: Tensor) -> Dataset:
    """The same fifth of every class for testing, whatever the seed of the run."""
    generator = torch.Generator().manual_seed(0)
    train, test = [], []
    for label in range(len(classes)):
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        tested = round(TEST_FRACTION * len(members))
        if not 0 < tested < len(members):
            raise ValueError(
                f"{name}: class {classes[label]!r} has {len(members)} images; "
                "a split into training and test needs at least 3 of each class."
            )
        test.append(members[:tested])
        train.append(members[tested:])
    kept, held_out = torch.cat(train).sort().values, torch.cat(test).sort().values
    return Dataset(name, classes, images[kept], labels[kept], images[held_out], labels[held_out])
