# SPDX-License-Identifier: Apache-2.0
"""Reads a folder of images as RGB squares of one size; each sub-folder, with all that lies in it, is a class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, check_memory, held_out_fifth
from sslkernels.data.picture import WHITE
from sslkernels.data.pictures import Names, Pictures, Source, white_of
from sslkernels.terminal import printable

MODALITY = "images"
TRAIN, HELD_OUT = "train", ("test", "val")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# Bytes of squares that are held in memory at most.
MOST_HELD = 64 << 20


def load_imagefolder(
    path: Path, *, size: int = 32, stream: bool | None = None, damaged: Literal["stop", "skip"] = "stop"
) -> Dataset:
    """A folder of pictures, one folder per class, as squares of ``size`` pixels.

    Up to 64 MiB of squares are held in memory; more, or any with ``stream``, are read anew each time they are wanted.
    ``damaged`` pictures stop the run, or another one of the same class takes their place.
    """
    if not path.is_dir():
        raise NotADirectoryError(f"imagefolder: {path} is a file; pass a folder with one sub-folder per class.")
    size = check_size("imagefolder", "size", size, most=1 << 14)
    left_out: Counter[str] = Counter()
    try:
        train, test = _parts(path, left_out)
    except OSError as error:
        raise ValueError(f"imagefolder: {error.filename} cannot be read ({error.strerror}); repair it.") from error
    if test is not None and train.classes != test.classes:
        raise ValueError(
            f"imagefolder: {path} has {_listed(train.classes)} in train and {_listed(test.classes)} held out; "
            "use the same sub-folders in both."
        )
    parts = [train] if test is None else [train, test]
    files = [os.path.relpath(file, path) for part in parts for file in part.files]
    labels = None if train.labels is None else torch.cat([part.labels for part in parts])  # type: ignore[misc]
    if test is None:
        kept, held_out = held_out_fifth(str(path), train.classes, train.labels, len(train.files))
    else:
        kept = torch.arange(len(train.files))
        held_out = torch.arange(len(train.files), len(files))
    known = None if labels is None else labels.numpy()
    skip = damaged == "skip"
    of = take_pictures("imagefolder", path, files, size, stream=stream, labels=known, skip=skip, left_out=left_out)
    split = (None, None) if labels is None else (labels[kept], labels[held_out])
    return Dataset(str(path), MODALITY, of(kept), split[0], of(held_out), split[1], train.classes)


def take_pictures(
    reader: str,
    path: Path,
    files: Sequence[str],
    size: int,
    *,
    stream: bool | None = None,
    labels: np.ndarray | None = None,
    skip: bool = False,
    left_out: Counter[str] | None = None,
) -> Callable[[Tensor], Any]:
    """Open the pictures ``files`` below the folder ``path``; the result takes rows of them, as a data set's inputs.

    They are read at once if they fit in `MOST_HELD`. One warning says what ``left_out`` and the pictures hold that is
    not read, another that many bits were taken for fewer.
    """
    source = Source(path, Names(files))
    if stream is None:
        stream = 12 * size * size * len(files) > MOST_HELD
    white, deep, brightest = white_of(source, size)
    left_out = Counter() if left_out is None else left_out
    pictures = Pictures(source, np.arange(len(files)), size, white, labels, skip)
    images = None if stream else _held(reader, pictures, left_out)
    if deep and white < WHITE:
        _warn(
            f"{reader}: {path} has {deep} images of 16 or 32 bits, and none is brighter than {brightest}; they are "
            f"read as {white.bit_length()} bits, with white at {white}."
        )
    _tell(reader, path, left_out)
    return pictures.only if images is None else images.__getitem__


def _held(reader: str, pictures: Pictures, left_out: Counter[str]) -> Tensor:
    """Read all pictures into memory, and count what a viewer shows of them and we do not read."""
    check_memory(
        f"{reader}: images of {pictures.source.root}", pictures.shape, 4, "pass ?stream=true, or a smaller size"
    )
    images = torch.empty(pictures.shape)
    for row, image in enumerate(images):
        image.copy_(pictures.read(row, left_out))
    return images


@dataclass(frozen=True)
class _Part:
    """Files with their labels, which are None if there is no second class."""

    classes: tuple[str, ...]
    files: list[Path]
    labels: Tensor | None


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


def _tell(reader: str, path: Path, left_out: Counter[str]) -> None:
    """Warn in one sentence of all that is in the folder and not in the data set."""
    parts = [f"{what} ({count})" for what, count in left_out.most_common() if count]
    if parts:
        more = [f"{len(parts) - 8} more kinds"] if len(parts) > 8 else []
        _warn(f"{reader}: {path} holds what is not read: {', '.join(parts[:8] + more)}.")


def _warn(sentence: str) -> None:
    warnings.warn(printable(sentence), stacklevel=6)


def _listed(classes: tuple[str, ...]) -> str:
    names = [repr(name) for name in classes[:8]] + ["..."] * (len(classes) > 8)
    return f"the classes {', '.join(names)}" if classes else "no classes"
