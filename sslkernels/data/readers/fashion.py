# SPDX-License-Identifier: Apache-2.0
"""Reads Fashion-MNIST from Debian's package, or from a folder with its four files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.data.dataset import Dataset
from sslkernels.data.installed import Package

MODALITY = "images"
PACKAGE = Package("dataset-fashion-mnist", "30 MB", "MIT", folder="/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
# An image has three bytes of header for each of its dimensions, and one for its kind.
IMAGES, LABELS = 0x803, 0x801
MOST_BYTES = 1 << 30


def load_fashion(path: Path | None = None, *, count: int = 60000, pool: int = 1, tail: float = 1.0) -> Dataset:
    """70,000 pictures of clothes, 28x28 grey, 10 classes (Fashion-MNIST, Xiao et al. 2017, MIT; a package of Debian).

    The first ``count`` training images are taken, and a sixth as many test images; ``pool`` averages squares of so many
    pixels. Of the training images of class i the first ``tail ** i`` stay, so that with a tail below 1 late classes are
    rare; tests have all classes alike.
    """
    if not 12 <= count <= 60000:
        raise ValueError(f"fashion: count is {count}; pass a whole number from 12 to 60000.")
    if pool not in (1, 2, 4, 7):
        raise ValueError(f"fashion: pool is {pool}; pass 1, 2, 4 or 7, which divide 28.")
    if not 0 < tail <= 1:
        raise ValueError(f"fashion: tail is {tail}; pass a number above 0, up to 1.")
    parts = []
    for part, most in (("train", count), ("t10k", count // 6)):
        images = _read(path, f"{part}-images-idx3-ubyte.gz", IMAGES)[:most]
        labels = _read(path, f"{part}-labels-idx1-ubyte.gz", LABELS)[:most].long()
        if len(images) != len(labels) or int(labels.max()) >= len(CLASSES):
            raise ValueError(
                f"fashion: {len(images)} images of {part} and {len(labels)} labels do not belong together."
            )
        parts.append((F.avg_pool2d(images[:, None].float() / 255, pool), labels))
    (inputs, labels), (test_inputs, test_labels) = parts
    if tail < 1:
        kept = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(len(CLASSES)):
            members = (labels == label).nonzero()[:, 0]
            kept[members[: math.ceil(tail**label * len(members))]] = True
        inputs, labels = inputs[kept], labels[kept]
    return Dataset("fashion", MODALITY, inputs, labels, test_inputs, test_labels, CLASSES)


def _read(folder: Path | None, name: str, magic: int) -> Tensor:
    """Read an idx file: the magic number, sizes as big-endian numbers, then bytes."""
    file = PACKAGE.path("fashion", name) if folder is None else folder / name
    if not file.is_file():
        raise FileNotFoundError(f"fashion: {file} does not exist; pass the folder of the four files of Fashion-MNIST.")
    try:
        with gzip.open(file) as opened:
            content = opened.read(MOST_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"fashion: {file} is damaged ({error}); put back the file.") from error
    dims = magic & 0xFF
    shape = tuple(int(size) for size in np.frombuffer(content[4 : 4 + 4 * dims], ">u4"))
    if content[:4] != magic.to_bytes(4, "big") or len(content) != 4 + 4 * dims + int(np.prod(shape)):
        raise ValueError(f"fashion: {file} is truncated or of another kind; put back the file.")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * dims).copy()).reshape(shape)
