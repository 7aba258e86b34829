# SPDX-License-Identifier: Apache-2.0
"""A folder of images, one sub-folder per class, as RGB squares of one size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split

if TYPE_CHECKING:
    from PIL.Image import Image

HELD_OUT = ("test", "val")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_imagefolder(path: Path, image_size: int) -> Dataset:
    if not path.is_dir():
        raise NotADirectoryError(f"imagefolder: {path} is a file; pass a folder with one sub-folder per class.")
    train = path / "train"
    if train.is_dir():
        test = next((path / name for name in HELD_OUT if (path / name).is_dir()), None)
        if test is None:
            raise ValueError(
                f"imagefolder: {path} has a folder train and none of {' or '.join(HELD_OUT)}; add one, or pass {train} "
                "to have a fifth of it held out."
            )
        classes = _classes(train)
        if _classes(test) != classes:
            raise ValueError(f"imagefolder: {train} and {test} have different sub-folders; use one set.")
        return Dataset(
            str(path), classes, *_read_classes(train, classes, image_size), *_read_classes(test, classes, image_size)
        )
    classes = _classes(path)
    return split(str(path), classes, *_read_classes(path, classes, image_size))


def _classes(path: Path) -> tuple[str, ...]:
    classes = tuple(sorted(entry.name for entry in _visible(path) if entry.is_dir()))
    if len(classes) < 2:
        raise ValueError(f"imagefolder: {path} has {len(classes)} sub-folders; it needs one per class, at least two.")
    return classes


def _read_classes(path: Path, classes: tuple[str, ...], image_size: int) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(file for file in _visible(path / name) if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"imagefolder: {path / name} holds no image; accepted are {' '.join(SUFFIXES)}.")
        images += [_read(file, image_size) for file in files]
        labels += [label] * len(files)
    return torch.stack(images), torch.tensor(labels)


def _visible(folder: Path) -> list[Path]:
    """Without what tools leave beside images, such as .ipynb_checkpoints and ._0.png."""
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _read(file: Path, image_size: int) -> Tensor:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            square = ImageOps.fit(_eight_bits(image), (image_size, image_size), Image.Resampling.BICUBIC)
    # Pillow's decoders raise all of these on damaged files.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"imagefolder: {file} cannot be read as an image ({error}); repair or remove it.") from error
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255


def _eight_bits(image: Image) -> Image:
    """RGB; 16-bit grey is scaled, where Pillow's own conversion would clip it to white."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 1 << 16:
            raise ValueError(f"values from {values.min()} to {values.max()} exceed 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    return image.convert("RGB")
