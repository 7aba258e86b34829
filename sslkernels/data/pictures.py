# SPDX-License-Identifier: Apache-2.0
"""Pictures that stay in their files: they are read when they are asked for, by processes beside the training.

Only where a picture lies is kept: its name, or its place in a tar file. Names stand one behind the other in one array
of bytes, so that processes share them and a million takes tens of megabytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sslkernels.data.picture import Picture, holds_many_bits, read_picture
from sslkernels.files import open_regular
from sslkernels.terminal import printable

# Bits that cameras, microscopes and scanners use of the 16 or 32 that a number takes in a file.
DEPTHS = (8, 10, 12, 14, 16)
# Formats whose pictures may have more than 8 bits.
DEEP = (".pgm", ".png", ".ppm", ".tif", ".tiff")
MOST_WORKERS = 8


class Names:
    """A list of texts in one array."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.content = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, place: int) -> str:
        return os.fsdecode(self.content[self.ends[place] : self.ends[place + 1]].tobytes())


@dataclass(frozen=True)
class Source:
    """Where pictures lie.

    Args:
        root: the folder that names begin at, or the one with the tar files.
        names: name of each picture; in a tar file, of its entry.
        tars: names of the tar files, None if there are none.
        places: int64 ``(N, 3)`` for pictures in tar files: which file, where it begins there, and its bytes.
    """

    root: Path
    names: Names
    tars: tuple[str, ...] | None = None
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def describe(self, place: int) -> str:
        """The picture's name for people."""
        if self.tars is None or self.places is None:
            return str(self.root / self.names[place])
        return f"{self.names[place]} in {self.root / self.tars[self.places[place, 0]]}"

    def open(self, place: int) -> BinaryIO:
        if self.tars is None or self.places is None:
            return open_regular(self.root / self.names[place])
        tar, begin, size = map(int, self.places[place])
        with open_regular(self.root / self.tars[tar]) as file:
            file.seek(begin)
            content = file.read(size)
        if len(content) < size:
            raise OSError(f"the tar file ends after {len(content)} of its {size} bytes")
        return io.BytesIO(content)

    def digest(self) -> str:
        """Names and sizes in one number, wherever the folder lies."""
        state = hashlib.sha256(self.names.content.tobytes() + self.names.ends.tobytes())
        if self.places is not None:
            state.update(repr(self.tars).encode() + self.places.tobytes())
        else:
            sizes = [os.stat(self.root / self.names[place]).st_size for place in range(len(self))]
            state.update(np.array(sizes, np.int64).tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Pictures:
    """Pictures ``(N, 3, size, size)`` in [0, 1], read by rows; see `sslkernels.data.Inputs`.

    Args:
        source: where they lie.
        rows: int64 ``(N,)``: the pictures of ``source`` that these are.
        size: pixels a side of the middle square.
        white: the number that is white in pictures that do not say so.
        labels: classes ``(N,)``; None if there are none.
        skip: put the next readable picture of the same class in the place of a damaged one, which otherwise is a
            ValueError.
    """

    source: Source
    rows: np.ndarray
    size: int
    white: int
    labels: np.ndarray | None = None
    skip: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), 3, self.size, self.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Tensor:
        """Read the pictures of a slice, of a list or of a tensor of row numbers."""
        chosen = np.arange(len(self))[rows.numpy() if isinstance(rows, Tensor) else rows]
        images = torch.empty(len(chosen), 3, self.size, self.size)
        for image, row in zip(images, chosen.tolist(), strict=True):
            image.copy_(self.read(row))
        return images

    def only(self, rows: Tensor) -> Pictures:
        """The same pictures without the others, still in their files."""
        chosen = rows.numpy()
        return replace(self, rows=self.rows[chosen], labels=None if self.labels is None else self.labels[chosen])

    def digest(self) -> str:
        return hashlib.sha256(f"{self.source.digest()} {self.size}".encode() + self.rows.tobytes()).hexdigest()

    def batches(self, size: int, workers: int | None = None) -> Iterator[Tensor]:
        """Read all in order, ``size`` at a time, by processes beside this one."""
        yield from DataLoader(
            _Rows(self), size, num_workers=usual_workers() if workers is None else workers, collate_fn=_same
        )

    def read(self, row: int, left_out: Counter[str] | None = None) -> Tensor:
        """Read one picture ``(3, size, size)``; ``left_out`` counts what a viewer shows of it and we do not read."""
        try:
            return self._pixels(row, left_out)
        except ValueError as error:
            if not self.skip:
                raise
            warnings.warn(printable(f"{error} Another picture takes its place."), stacklevel=2)
        for other in self._others(row):
            try:
                return self._pixels(other, left_out)
            except ValueError:
                continue
        raise ValueError(f"imagefolder: {self.source.describe(self.rows[row])} is damaged, and all of its class are.")

    def _pixels(self, row: int, left_out: Counter[str] | None) -> Tensor:
        picture = read_source(self.source, int(self.rows[row]), self.size)
        if left_out is not None:
            left_out.update(picture.left_out)
        return picture.pixels if picture.brightest is None else picture.pixels / self.white

    def _others(self, row: int) -> Iterator[int]:
        """The rows of the same class, from the next one on and around."""
        for step in range(1, len(self)):
            other = (row + step) % len(self)
            if self.labels is None or self.labels[other] == self.labels[row]:
                yield other


class _Rows(TorchDataset):
    """Pictures for a DataLoader, which asks for a batch at once."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, rows: list[int]) -> Tensor:
        return self.pictures[rows]


def _same(batch: Any) -> Any:
    return batch


def usual_workers() -> int:
    """How many processes read files, unless somebody says so: one for each processor that this process may use."""
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def read_source(source: Source, place: int, size: int) -> Picture:
    """Read one picture; a ValueError says what is wrong with it."""
    return read_picture(source.describe(place), size, lambda: source.open(place))


def white_of(source: Source, size: int) -> tuple[int, int, int]:
    """Find the number that is white in the pictures that do not say so, which share one: a dark picture stays dark.

    Only headers of formats that may have more than 8 bits are looked at, and the pictures that have them. The result is
    that number, how many such pictures there are, and the brightest number in them.
    """
    count, brightest = 0, 0
    for place in range(len(source)):
        if os.path.splitext(source.names[place])[1].lower() in DEEP and holds_many_bits(lambda: source.open(place)):  # noqa: B023
            try:
                found = read_source(source, place, size).brightest
            except ValueError:  # it is named when it is read
                continue
            if found is not None:
                count, brightest = count + 1, max(brightest, found)
    bits = next((depth for depth in DEPTHS if brightest < 1 << depth), DEPTHS[-1])
    return (1 << bits) - 1, count, brightest
