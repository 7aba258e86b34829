# SPDX-License-Identifier: Apache-2.0
"""The words that name a data set, and the reader that each of them calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sslkernels.arguments import came, check_kind, check_size
from sslkernels.data.cifar10 import load_cifar10
from sslkernels.data.dataset import Dataset
from sslkernels.data.digits import load_digits
from sslkernels.data.imagefolder import load_imagefolder
from sslkernels.data.npz import load_npz


def load(spec: str, image_size: int = 32) -> Dataset:
    """Load the data set that ``spec`` names.

    One warning lists what lies in the files and is not read. Pictures are read as a viewer shows them: upright by their
    EXIF, on white where they are transparent, the first of several frames. Colour profiles are not applied.

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
    if spec == "digits":
        return load_digits()
    readers: dict[str, Callable[[Path], Dataset]] = {
        "imagefolder": partial(load_imagefolder, image_size=image_size),
        "cifar10": load_cifar10,
        "npz": load_npz,
    }
    kind, separator, path = spec.partition(":")
    if kind not in readers or not separator:
        raise ValueError(f"data is {came(spec)}; accepted are digits, imagefolder:PATH, cifar10:PATH and npz:PATH.")
    if not path:
        raise ValueError(f"data is {spec!r}, which names no path; write {kind}:PATH.")
    if not _is_there(Path(path)):
        raise FileNotFoundError(f"data is {spec!r}, and nothing is there; pass the path of data that exists.")
    return readers[kind](Path(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # the name may be longer than any file's
        return False
