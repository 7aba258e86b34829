# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in its binary version (Krizhevsky 2009): records of one label byte and 3x32x32 bytes of image."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, check_memory
from sslkernels.files import cause_of, open_regular

MODALITY = "images"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32


def load_cifar10(path: Path) -> Dataset:
    """CIFAR-10 in its binary version: 60,000 photographs of 32x32 in 10 classes (Krizhevsky 2009)."""
    folder = path / "cifar-10-batches-bin" if (path / "cifar-10-batches-bin").is_dir() else path
    train = [_read(folder / f"data_batch_{number}.bin") for number in range(1, 6)]
    test_images, test_labels = _read(folder / "test_batch.bin")
    images, labels = zip(*train, strict=True)
    return Dataset("cifar10", MODALITY, torch.cat(images), torch.cat(labels), test_images, test_labels, CLASSES)


def _read(file: Path) -> tuple[Tensor, Tensor]:
    try:
        with open_regular(file) as opened:
            size = os.fstat(opened.fileno()).st_size
            # An image takes a byte a number, and float32 twice, since the files are joined.
            check_memory(f"cifar10: images of {file}", (size // RECORD, 3, 32, 32), 9, "pass a smaller file")
            content = np.fromfile(opened, dtype=np.uint8)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"cifar10: {file} does not exist; pass the folder of the binary version, which holds data_batch_1.bin to "
            "data_batch_5.bin and test_batch.bin."
        ) from error
    except OSError as error:
        raise ValueError(f"cifar10: {file} cannot be read: {cause_of(error)}; pass the file itself.") from error
    if content.size == 0 or content.size % RECORD:
        raise ValueError(
            f"cifar10: {file} has {content.size} bytes, which is not a whole number of records of {RECORD} bytes; "
            "the file is truncated or of another version, download it again."
        )
    records = torch.from_numpy(content).view(-1, RECORD)
    labels = records[:, 0].long()
    if int(labels.max()) >= len(CLASSES):
        raise ValueError(
            f"cifar10: {file} holds label {int(labels.max())} and labels go from 0 to 9; the file is damaged or of "
            "another version, download it again."
        )
    return records[:, 1:].reshape(-1, 3, 32, 32).float() / 255, labels
