# SPDX-License-Identifier: Apache-2.0
"""A folder of images, one sub-folder per class, as RGB squares of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_imagefolder(path: Path, image_size: int) -> Dataset:
    if not path.is_dir():
        raise NotADirectoryError(f"imagefolder: {path} is a file; pass a folder with one sub-folder per class.")
    if (path / "train").is_dir() and (path / "test").is_dir():
        classes = _classes(path / "train")
        if _classes(path / "test") != classes:
            raise ValueError(f"imagefolder: {path}/train and {path}/test have different sub-folders; use one set.")
        return Dataset(
            str(path),
            classes,
            *_read_classes(path / "train", classes, image_size),
            *_read_classes(path / "test", classes, image_size),
        )
    classes = _classes(path)
    return split(str(path), classes, *_read_classes(path, classes, image_size))


def _classes(path: Path) -> tuple[str, ...]:
    classes = tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
    if len(classes) < 2:
        raise ValueError(f"imagefolder: {path} has {len(classes)} sub-folders; it needs one per class, at least two.")
    return classes


def _read_classes(path: Path, classes: tuple[str, ...], image_size: int) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"imagefolder: {path / name} holds no image; accepted are {' '.join(SUFFIXES)}.")
        images += [_read(file, image_size) for file in files]
        labels += [label] * len(files)
    return torch.stack(images), torch.tensor(labels)


def _read(file: Path, image_size: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            square = ImageOps.fit(image.convert("RGB"), (image_size, image_size), Image.Resampling.BICUBIC)
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"imagefolder: {file} cannot be read as an image ({error}); repair or remove it.") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
