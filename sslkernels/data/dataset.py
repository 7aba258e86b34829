# SPDX-License-Identifier: Apache-2.0
"""A data set in memory, the fixed split of those that have none, and the words that name them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from sslkernels.arguments import MEMORY, came, check_kind, check_size

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Dataset:
    """Images float32 ``(N, C, H, W)`` in [0, 1] and labels int64 ``(N,)``, which only the evaluation reads.

    Where there are no labels, or all are alike, ``classes`` is empty and the labels are None.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor | None
    test_images: Tensor
    test_labels: Tensor | None


def load(spec: str, image_size: int = 32) -> Dataset:
    """The data set that ``spec`` names.

    What lies in the files and is not read is said in one warning. Pictures are read as a viewer shows them: upright by
    their EXIF, on white where they are transparent, the first of several frames. Colour profiles are not applied.

    Args:
        spec: ``"digits"`` (1,797 handwritten digits of 8x8 that come with scikit-learn), ``"imagefolder:PATH"`` (one
            folder per class, with or without ``train/`` and ``test/`` above them; or pictures alone, without labels),
            ``"cifar10:PATH"`` (the binary version) or ``"npz:PATH"`` (an array ``images``; optionally ``labels``,
            ``test_images``, ``test_labels``).
        image_size: height and width that the images of an ``imagefolder`` are cropped and resized to.

    Raises:
        ValueError: the spec or a file's content is wrong. FileNotFoundError: nothing is at PATH.

    >>> from sslkernels.data import load
    >>> load("digits").train_images.shape
    torch.Size([1438, 1, 8, 8])
    """
    spec = check_kind("load", "spec", spec, str, "digits, imagefolder:PATH, cifar10:PATH or npz:PATH")
    dataset = _load(spec, check_size("load", "image_size", image_size))
    train, test = tuple(dataset.train_images.shape[1:]), tuple(dataset.test_images.shape[1:])
    if train != test:
        raise ValueError(f"data is {spec!r} with training images of {train} and test images of {test}; use one size.")
    if len(dataset.test_images) < 2:
        raise ValueError(
            f"data is {spec!r} and holds out {len(dataset.test_images)} image; the report needs two. Add images."
        )
    return dataset


def _load(spec: str, image_size: int) -> Dataset:
    kind, separator, path = spec.partition(":")
    if spec == "digits":
        from sslkernels.data.digits import load_digits

        return load_digits()
    if kind not in ("imagefolder", "cifar10", "npz") or not separator:
        raise ValueError(f"data is {came(spec)}; accepted are digits, imagefolder:PATH, cifar10:PATH and npz:PATH.")
    if not path:
        raise ValueError(f"data is {spec!r}, which names no path; write {kind}:PATH.")
    if not _is_there(Path(path)):
        raise FileNotFoundError(f"data is {spec!r}, and nothing is there; pass the path of data that exists.")
    if kind == "imagefolder":
        from sslkernels.data.imagefolder import load_imagefolder

        return load_imagefolder(Path(path), image_size)
    if kind == "cifar10":
        from sslkernels.data.cifar10 import load_cifar10

        return load_cifar10(Path(path))
    from sslkernels.data.npz import load_npz

    return load_npz(Path(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # such as a name that is longer than any file's
        return False


def split(name: str, classes: tuple[str, ...], images: Tensor, labels: Tensor | None) -> Dataset:
    """The images with a fifth of them held out."""
    kept, held_out = held_out_fifth(name, classes, labels, len(images))
    if labels is None:
        return Dataset(name, (), images[kept], None, images[held_out], None)
    return Dataset(name, classes, images[kept], labels[kept], images[held_out], labels[held_out])


def held_out_fifth(name: str, classes: tuple[str, ...], labels: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Indices of what is kept and of the same fifth of every class (of all without labels), whatever the run's seed."""
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
    """That so many numbers, of ``itemsize`` bytes with all their copies, can be held: before the first is read."""
    needed = itemsize * prod(shape)
    if needed > MEMORY:
        raise ValueError(
            f"{what} of shape {shape} need {needed / 2**30:,.0f} GiB, and this machine has {MEMORY / 2**30:,.0f}; "
            f"{remedy}."
        )
