# SPDX-License-Identifier: Apache-2.0
"""Reads tables of text, and turns words into numbers."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sslkernels.arguments import check_size
from sslkernels.data.dataset import check_memory
from sslkernels.files import open_regular

MOST_BYTES = 1 << 30
# The cells of a table are strings before they are numbers: 64 bytes for two letters and a comma, and the text itself.
BYTES_PER_LETTER = 32
PADDING, UNKNOWN = 0, 1


def read_text(reader: str, path: Path) -> str:
    """Read a text file in UTF-8."""
    content = read_bytes(reader, path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{reader}: {path} is not UTF-8 at byte {error.start}; write it as UTF-8.") from error


def read_bytes(reader: str, path: Path) -> bytes:
    """Read a file whole, up to a limit; an OSError or a ValueError names it."""
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise type(error)(f"{reader}: {path} cannot be read: {error.strerror or error}; pass a file.") from error
    if len(content) > MOST_BYTES:
        raise ValueError(f"{reader}: {path} has more than {MOST_BYTES >> 30} GiB; pass a smaller file.")
    return content


def read_table(reader: str, path: Path, delimiter: str) -> tuple[list[str], list[list[str]]]:
    """Read the header and the rows of a table; a ValueError names the first row of another width."""
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise ValueError(f"{reader}: delimiter is {delimiter!r}; pass one character, such as ',' or ';'.")
    text = read_text(reader, path)
    check_memory(f"{reader}: the cells of {path}, letters", (len(text),), BYTES_PER_LETTER, "pass a smaller file")
    # In a table of tabs a quotation mark is a letter as any other: a title may begin with one and never end it.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    lines = csv.reader(io.StringIO(text, newline=None), delimiter=delimiter, quoting=quoting)
    rows: list[list[str]] = []
    try:
        for row in lines:
            if row and rows and len(row) != len(rows[0]):
                raise ValueError(
                    f"{reader}: line {lines.line_num} of {path} has {len(row)} columns and the header {len(rows[0])}."
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{reader}: line {lines.line_num} of {path} is no row of a table ({error}).") from error
    if len(rows) < 2:
        raise ValueError(f"{reader}: {path} has {len(rows)} lines; it needs a header and at least one row.")
    return rows[0], rows[1:]


def column(reader: str, path: Path, header: Sequence[str], name: str) -> int:
    """The place of a column; a ValueError lists those there are."""
    if name not in header:
        raise ValueError(f"{reader}: {path} has no column {name!r}; its columns are {', '.join(header[:20])}.")
    return list(header).index(name)


def numbered(values: Iterable[str]) -> tuple[tuple[str, ...], Tensor]:
    """Number the different values in their order: their names, and int64 ``(N,)``."""
    listed = list(values)
    names = tuple(sorted(set(listed)))
    places = {name: place for place, name in enumerate(names)}
    return names, torch.tensor([places[value] for value in listed], dtype=torch.int64)


def vocabulary(texts: Iterable[Sequence[str]], most: int, least: int = 1) -> dict[str, int]:
    """Number the ``most`` frequent words from 2 on, of those that come ``least`` times; 0 is padding and 1 every other
    word.
    """
    counts = Counter(word for text in texts for word in text)
    ordered = sorted((word for word in counts if counts[word] >= least), key=lambda word: (-counts[word], word))[:most]
    return {word: number for number, word in enumerate(ordered, UNKNOWN + 1)}


def padded(reader: str, rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Cut or pad rows with 0 to ``(N, length)``, int64."""
    check_size(reader, "length", length)
    # The split copies the rows once.
    check_memory(f"{reader}: the rows", (len(rows), length), 16, "pass a smaller length")
    result = torch.zeros(len(rows), length, dtype=torch.int64)
    for place, row in enumerate(rows):
        kept = torch.tensor(row[:length], dtype=torch.int64)
        result[place, : len(kept)] = kept
    return result
