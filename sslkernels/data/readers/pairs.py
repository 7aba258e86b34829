# SPDX-License-Identifier: Apache-2.0
"""Reads pairs of pictures that a user's table names, such as two photographs of one place or a drawing and its copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, held_out_fifth, split_by_group
from sslkernels.data.readers.imagefolder import take_pictures
from sslkernels.data.tables import column, numbered, read_table

MODALITY = "images"
FIRST, SECOND, LABEL = "first", "second", "label"


def load_pairs(path: Path, *, size: int = 32) -> Dataset:
    """Pairs of pictures: a CSV whose columns first and second name files beside it, and label their class, if given.

    Each row makes two samples, which are partners of each other. Pairs that share a picture, or are linked by others
    that do, show one ``thing`` of ``extra``; a fifth of the things is held out, of each class where there are classes.
    """
    size = check_size("pairs", "size", size, most=1 << 14)
    header, rows = read_table("pairs", path, ",")
    places = [column("pairs", path, header, name) for name in (FIRST, SECOND)]
    files = [row[place] for row in rows for place in places]
    _check_there(path, files)
    things = linked([str((path.parent / file).resolve()) for file in files])
    classes: tuple[str, ...] = ()
    labels = None
    if LABEL in header:
        classes, of_rows = numbered(row[column("pairs", path, header, LABEL)] for row in rows)
        labels = of_rows.repeat_interleave(2) if len(classes) > 1 else None
    count = int(things.max()) + 1
    kinds = None if labels is None else _kinds(path, classes, labels, things)
    _check_enough(path, classes, torch.zeros(count) if kinds is None else kinds)
    held_out = held_out_fifth(str(path), classes, kinds, count)[1].tolist()
    numbers = torch.arange(len(files))
    partners = (numbers ^ 1)[:, None]  # a row of the table makes samples 2 i and 2 i + 1
    # Numbers are split in place of the pictures, which may stay in their files.
    found = split_by_group(str(path), MODALITY, classes, numbers, labels, "thing", held_out, partners, thing=things)
    of = take_pictures("pairs", path.parent, files, size)
    return replace(found, inputs=of(found.inputs), test_inputs=of(found.test_inputs))


def linked(files: Sequence[str]) -> Tensor:
    """Number what pairs ``(files[0], files[1]), (files[2], files[3]), ...`` show, linked by their files: ``(N,)``."""
    above: dict[str, str] = {}

    def top(file: str) -> str:
        while above.setdefault(file, file) != file:
            above[file] = above[above[file]]  # halve the way for the next one
            file = above[file]
        return file

    for first, second in zip(files[::2], files[1::2], strict=True):
        above[top(first)] = top(second)
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(top(file), len(numbers)) for file in files])


def _check_there(path: Path, files: Sequence[str]) -> None:
    for place, file in enumerate(files):
        try:
            there = file != "" and (path.parent / file).exists()
        except (OSError, ValueError):  # the name is longer than any file's, or holds a zero
            there = False
        if not there:
            raise FileNotFoundError(
                f"pairs: row {place // 2 + 1} of {path} names {file[:200]!r}, and no such file is in {path.parent}; "
                "write names as they are seen from the folder of the table."
            )


def _kinds(path: Path, classes: tuple[str, ...], labels: Tensor, things: Tensor) -> Tensor:
    """The class of each thing, which all of its pairs share."""
    kinds = torch.empty(int(things.max()) + 1, dtype=torch.int64).scatter_(0, things, labels)
    other = (kinds[things] != labels).nonzero()[:, 0].tolist()
    if other:
        place = other[0]
        raise ValueError(
            f"pairs: row {place // 2 + 1} of {path} is of class {classes[labels[place]]!r}, and pairs that it shares "
            f"pictures with are of {classes[kinds[things[place]]]!r}; give them one class."
        )
    return kinds


def _check_enough(path: Path, classes: tuple[str, ...], kinds: Tensor) -> None:
    counts = torch.bincount(kinds.long()).tolist()
    fewest = min(counts)
    if fewest < 3:
        of = f" of class {classes[counts.index(fewest)]!r}" if len(counts) > 1 else ""
        raise ValueError(
            f"pairs: {path} has too few pairs{of}: they show {fewest} things that share no picture, and a split into "
            "training and test needs at least 3; add pairs."
        )
