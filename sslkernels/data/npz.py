# SPDX-License-Identifier: Apache-2.0
"""Images and labels in a NumPy ``.npz`` file, read without pickles."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split


def load_npz(path: Path) -> Dataset:
    try:
        # Opened as a zip archive first: NumPy takes any other file for a pickle and advises to trust it.
        zipfile.ZipFile(path).close()
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"npz: {path} is damaged, no .npz file, or holds objects; "
            "write it with numpy.savez(path, images=..., labels=...), arrays of numbers only."
        ) from error
    for name in ("images", "labels"):
        if name not in arrays:
            raise ValueError(f"npz: {path} has no array {name!r} among {sorted(arrays)}; it needs images and labels.")
    names, labels = np.unique(_labels(path, "labels", arrays), return_inverse=True)
    classes = tuple(map(str, names))
    images = _images(path, "images", arrays)
    _check_rows(path, "images", images, "labels", labels)
    if ("test_images" in arrays) != ("test_labels" in arrays):
        raise ValueError(f"npz: {path} has one of test_images and test_labels; pass both, or none to hold out a fifth.")
    if "test_images" not in arrays:
        return split(str(path), classes, images, torch.from_numpy(labels).long())
    test_names = _labels(path, "test_labels", arrays)
    if not np.isin(test_names, names).all():
        raise ValueError(f"npz: test_labels of {path} hold classes that labels lack; give every class training images.")
    test_images = _images(path, "test_images", arrays)
    _check_rows(path, "test_images", test_images, "test_labels", test_names)
    test_labels = np.searchsorted(names, test_names)
    return Dataset(
        str(path),
        classes,
        images,
        torch.from_numpy(labels).long(),
        test_images,
        torch.from_numpy(test_labels).long(),
    )


def _labels(path: Path, name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    labels = arrays[name]
    if labels.ndim != 1 or labels.dtype.kind not in "iuSU":
        raise ValueError(
            f"npz: {name} of {path} has shape {labels.shape} and dtype {labels.dtype}; "
            "pass whole numbers or strings of shape (N,)."
        )
    return labels


def _images(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Tensor:
    """``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, C of 1 or 3; bytes, or floats in [0, 1]."""
    images = arrays[name]
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"npz: {name} of {path} has shape {arrays[name].shape}; "
            "accepted are (N, H, W), (N, H, W, C) and (N, C, H, W) with C of 1 or 3."
        )
    if images.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"npz: {name} of {path} has dtype {images.dtype} and values from {images.min()} to {images.max()}; "
            "accepted are uint8, and floats in [0, 1]."
        )
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))


def _check_rows(path: Path, name: str, images: Tensor, labels_name: str, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise ValueError(
            f"npz: {path} holds {len(images)} {name} and {len(labels)} {labels_name}; every image needs one label."
        )
