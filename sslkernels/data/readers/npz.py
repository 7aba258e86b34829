# SPDX-License-Identifier: Apache-2.0
"""Reads images and labels from a NumPy ``.npz`` file, without pickles."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, check_memory, split
from sslkernels.files import cause_of, open_regular
from sslkernels.terminal import printable

MODALITY = "images"
NAMES = ("images", "labels", "test_images", "test_labels")
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def load_npz(path: Path) -> Dataset:
    """Images and labels in a NumPy .npz file: images, labels, test_images, test_labels."""
    arrays = _arrays(path)
    images = _images(path, "images", arrays)
    test_images = _images(path, "test_images", arrays) if "test_images" in arrays else None
    if "labels" not in arrays:
        if "test_labels" in arrays:
            raise ValueError(f"npz: {path} has test_labels and no labels; pass both, or none.")
        if test_images is None:
            return split(str(path), MODALITY, (), images, None)
        return Dataset(str(path), MODALITY, images, None, test_images, None)
    names, labels = np.unique(_labels(path, "labels", arrays), return_inverse=True)
    _check_rows(path, "images", images, "labels", labels)
    classes = tuple(map(str, names)) if len(names) > 1 else ()
    known = torch.from_numpy(labels).long() if classes else None
    if (test_images is None) != ("test_labels" not in arrays):
        raise ValueError(f"npz: {path} has one of test_images and test_labels; pass both, or none to hold out a fifth.")
    if test_images is None:
        return split(str(path), MODALITY, classes, images, known)
    test_names = _labels(path, "test_labels", arrays)
    if not np.isin(test_names, names).all():
        raise ValueError(f"npz: test_labels of {path} hold classes that labels lack; give every class training images.")
    _check_rows(path, "test_images", test_images, "test_labels", test_names)
    test_known = torch.from_numpy(np.searchsorted(names, test_names)).long() if classes else None
    return Dataset(str(path), MODALITY, images, known, test_images, test_known, classes)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read those arrays of `NAMES` that the file has."""
    with ExitStack() as opened:
        with _reading(path):
            archive = opened.enter_context(zipfile.ZipFile(opened.enter_context(open_regular(path))))
        members = archive.infolist()
        found = {name: [each for each in members if each.filename in (name, f"{name}.npy")] for name in NAMES}
        if not found["images"]:
            raise ValueError(f"npz: {path} has no array 'images' among {_listed(members)}; it needs images.")
        for name, same in found.items():
            if len(same) > 1:
                raise ValueError(f"npz: {path} holds {name} {len(same)} times; write it anew.")
        arrays = {name: _array(path, name, archive, *same) for name, same in found.items() if same}
        others = [each for each in members if all(each not in same for same in found.values())]
    if others:
        warnings.warn(printable(f"npz: {path} holds what is not read: {_listed(others)}."), stacklevel=5)
    return arrays


def _listed(members: list[zipfile.ZipInfo]) -> str:
    names = [repr(each.filename.removesuffix(".npy")) for each in members[:8]] + ["..."] * (len(members) > 8)
    return ", ".join(names) or "none"


def _array(path: Path, name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Read an array once its header is checked: the file must hold as much as it says, and the memory too."""
    with _reading(path), archive.open(info) as member:
        shape, _, dtype = _READ_HEADER[np.lib.format.read_magic(member)](member)
        begin = member.tell()
    if dtype.hasobject:
        raise ValueError(f"npz: {name} of {path} holds objects, which are not read; write numbers only.")
    held = info.file_size - begin
    if prod(shape) * dtype.itemsize != held:
        raise ValueError(
            f"npz: {name} of {path} is damaged: it says shape {shape} of {dtype}, and {held} bytes follow; "
            "write it anew."
        )
    # An image takes its own bytes and two copies in float32.
    check_memory(f"npz: {name} of {path}", shape, dtype.itemsize + 8, "pass fewer or smaller images")
    with _reading(path), archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the many errors that a damaged archive or header raises into one sentence."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"npz: {path} is damaged, no .npz file, or holds objects ({cause_of(error)}); "
            "write it with numpy.savez(path, images=..., labels=...), arrays of numbers only."
        ) from error


def _labels(path: Path, name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    labels = arrays[name]
    if labels.ndim != 1 or labels.dtype.kind not in "iuSU":
        raise ValueError(
            f"npz: {name} of {path} has shape {labels.shape} and dtype {labels.dtype}; "
            "pass whole numbers or strings of shape (N,)."
        )
    return labels


def _images(path: Path, name: str, arrays: dict[str, np.ndarray]) -> Tensor:
    """Take images ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)``, C of 1 or 3, of bytes or floats in [0, 1]."""
    images = arrays.pop(name)
    shape, accepted = images.shape, "accepted are uint8, and floats in [0, 1]"
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"npz: {name} of {path} has shape {shape}; "
            "accepted are (N, H, W), (N, H, W, C) and (N, C, H, W) with C of 1 or 3."
        )
    if images.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    if images.dtype.kind not in "fiu":
        raise ValueError(f"npz: {name} of {path} has dtype {images.dtype}; {accepted}.")
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"npz: {name} of {path} has dtype {images.dtype} and values from {images.min()} to {images.max()}; "
            f"{accepted}."
        )
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))


def _check_rows(path: Path, name: str, images: Tensor, labels_name: str, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise ValueError(
            f"npz: {path} holds {len(images)} {name} and {len(labels)} {labels_name}; every image needs one label."
        )
