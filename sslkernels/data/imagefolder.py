# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of images as RGB squares of one size; each sub-folder, with all that lies in it, is a class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, check_memory, held_out_fifth
from sslkernels.data.picture import read_picture
from sslkernels.terminal import printable

TRAIN, HELD_OUT = "train", ("test", "val")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Bits that cameras, microscopes and scanners use of the 16 or 32 that a number takes in a file.
DEPTHS = (8, 10, 12, 14, 16)


def load_imagefolder(path: Path, image_size: int) -> Dataset:
    if not path.is_dir():
        raise NotADirectoryError(f"imagefolder: {path} is a file; pass a folder with one sub-folder per class.")
    left_out: Counter[str] = Counter()
    try:
        train, test = _parts(path, left_out)
    except OSError as error:
        raise ValueError(f"imagefolder: {error.filename} cannot be read ({error.strerror}); repair it.") from error
    if test is None:
        kept, held_out = held_out_fifth(str(path), train.classes, train.labels, len(train.files))
        train, test = train.only(kept), train.only(held_out)
    elif train.classes != test.classes:
        raise ValueError(
            f"imagefolder: {path} has {_listed(train.classes)} in train and {_listed(test.classes)} held out; "
            "use the same sub-folders in both."
        )
    images = _read(path, [*train.files, *test.files], image_size, left_out)
    _tell(path, left_out)
    count = len(train.files)
    return Dataset(str(path), train.classes, images[:count], train.labels, images[count:], test.labels)


@dataclass(frozen=True)
class _Part:
    """Files with their labels, which are None if there is no second class."""

    classes: tuple[str, ...]
    files: list[Path]
    labels: Tensor | None

    def only(self, chosen: Tensor) -> _Part:
        labels = None if self.labels is None else self.labels[chosen]
        return _Part(self.classes, [self.files[at] for at in chosen.tolist()], labels)


def _parts(path: Path, left_out: Counter[str]) -> tuple[_Part, _Part | None]:
    """Find training and held-out files; the latter are None if the folder leaves the choice to us.

    A folder train beside a test or val is a split. If other folders beside them hold pictures, all are classes.
    """
    folders = {entry.name: path / entry.name for entry in _visible(path, Counter()) if entry.is_dir()}
    beside = [folders[name] for name in folders if name not in (TRAIN, *HELD_OUT)]
    if TRAIN not in folders or any(_pictures(folder, Counter()) for folder in beside):
        return _part(path, left_out), None
    test = next((name for name in HELD_OUT if name in folders), None)
    if test is not None:
        unused = [folders[name] for name in HELD_OUT if name in folders and name != test]
        left_out.update(f"images in {folder.name}" for folder in unused for _ in _pictures(folder, Counter()))
        return _part(folders[TRAIN], left_out), _part(folders[test], left_out)
    if any(entry.is_dir() for entry in _visible(folders[TRAIN], Counter())):
        raise ValueError(
            f"imagefolder: {path} has a folder train and none of {' or '.join(HELD_OUT)}; add one, or pass "
            f"{folders[TRAIN]} to have a fifth of it held out."
        )
    return _part(path, left_out), None


def _part(path: Path, left_out: Counter[str]) -> _Part:
    """List ``path``: each sub-folder is a class; if only ``path`` itself holds pictures, there are no classes."""
    entries = _visible(path, left_out)
    loose = _only_pictures((entry for entry in entries if not entry.is_dir()), left_out)
    classes = {entry.name: _pictures(path / entry.name, left_out) for entry in entries if entry.is_dir()}
    if not any(classes.values()):
        if not loose:
            where = f"{path} and its sub-folders hold" if classes else f"{path} holds"
            raise ValueError(f"imagefolder: {where} no image; accepted are {' '.join(SUFFIXES)}.")
        return _Part((), loose, None)
    left_out["images beside the sub-folders"] += len(loose)
    for name, files in classes.items():
        if not files:
            raise ValueError(
                f"imagefolder: {path / name} holds no image; accepted are {' '.join(SUFFIXES)}. "
                "Every sub-folder is a class: remove it if it is none."
            )
    files = [file for name in sorted(classes) for file in classes[name]]
    if len(classes) == 1:
        return _Part((), files, None)
    labels = [label for label, name in enumerate(sorted(classes)) for _ in classes[name]]
    return _Part(tuple(sorted(classes)), files, torch.tensor(labels))


def _pictures(folder: Path, left_out: Counter[str]) -> list[Path]:
    """List the pictures below ``folder``. Links to folders are followed, unless they lead back or were read already."""
    first = folder.resolve()
    seen, waiting, found = {*first.parents}, [folder], []
    while waiting:
        current = waiting.pop()
        place = current.resolve()
        if place in seen:
            left_out["links to a folder that was read already"] += 1
            continue
        seen.add(place)
        entries = _visible(current, left_out)
        waiting += sorted((current / entry.name for entry in entries if entry.is_dir()), reverse=True)
        found += _only_pictures((entry for entry in entries if not entry.is_dir()), left_out)
    return sorted(found)


def _visible(folder: Path, left_out: Counter[str]) -> list[os.DirEntry[str]]:
    """List ``folder`` without what tools leave beside images, such as .ipynb_checkpoints and ._0.png."""
    with os.scandir(folder) as entries:
        found = list(entries)
    left_out["hidden files and folders"] += sum(entry.name.startswith(".") for entry in found)
    return [entry for entry in found if not entry.name.startswith(".")]


def _only_pictures(entries: Iterable[os.DirEntry[str]], left_out: Counter[str]) -> list[Path]:
    found = []
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in SUFFIXES:
            found.append(Path(entry.path))
        else:
            left_out[f"files ending in {suffix}" if suffix else "files without an ending"] += 1
    return sorted(found)


def _read(path: Path, files: list[Path], image_size: int, left_out: Counter[str]) -> Tensor:
    """Read all files. Those that do not say which number is white share one, so that a dark picture stays dark."""
    shape = (len(files), 3, image_size, image_size)
    check_memory(f"imagefolder: images of {path}", shape, 4, "pass a smaller image_size or fewer images")
    images, brightest = torch.empty(shape), dict[int, int]()
    for at, file in enumerate(files):
        picture = read_picture(file, image_size)
        images[at] = picture.pixels
        left_out.update(picture.left_out)
        if picture.brightest is not None:
            brightest[at] = picture.brightest
    if brightest:
        bits = next(depth for depth in DEPTHS if max(brightest.values()) < 1 << depth)
        images[list(brightest)] /= (1 << bits) - 1
        if bits < DEPTHS[-1]:
            _warn(
                f"imagefolder: {path} has {len(brightest)} images of 16 or 32 bits, and none is brighter than "
                f"{max(brightest.values())}; they are read as {bits} bits, with white at {(1 << bits) - 1}."
            )
    return images


def _tell(path: Path, left_out: Counter[str]) -> None:
    """Warn in one sentence of all that is in the folder and not in the data set."""
    parts = [f"{what} ({count})" for what, count in left_out.most_common() if count]
    if parts:
        more = [f"{len(parts) - 8} more kinds"] if len(parts) > 8 else []
        _warn(f"imagefolder: {path} holds what is not read: {', '.join(parts[:8] + more)}.")


def _warn(sentence: str) -> None:
    warnings.warn(printable(sentence), stacklevel=6)


def _listed(classes: tuple[str, ...]) -> str:
    names = [repr(name) for name in classes[:8]] + ["..."] * (len(classes) > 8)
    return f"the classes {', '.join(names)}" if classes else "no classes"
