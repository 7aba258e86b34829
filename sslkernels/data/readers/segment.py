# SPDX-License-Identifier: Apache-2.0
"""Reads tables of numbers: those that come with river, or a user's CSV."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import torch

from sslkernels.data.dataset import Dataset, split
from sslkernels.data.installed import Package
from sslkernels.data.scaling import standardised
from sslkernels.data.tables import column, numbered, read_table

MODALITY = "tables"
# The square of a larger number overflows when columns are brought to deviation 1.
LARGEST = 1e100
PACKAGE = Package("river", "3 MB", "BSD-3", module="river")


def load_segment() -> Dataset:
    """2,310 patches of outdoor photographs as 18 measured numbers, 7 kinds of ground (UCI, from river, BSD-3)."""
    with zipfile.ZipFile(PACKAGE.path("segment", "datasets", "segment.csv.zip")) as archive:
        (name,) = archive.namelist()
        with archive.open(name) as file:
            rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
    columns = [column for column in rows[0] if column != "category"]
    classes = tuple(sorted({row["category"] for row in rows}))
    inputs = torch.tensor([[float(row[column]) for column in columns] for row in rows])
    labels = torch.tensor([classes.index(row["category"]) for row in rows])
    return standardised(split("segment", MODALITY, classes, inputs, labels))


def load_csv(path: Path, *, label: str | None = None, delimiter: str = ",") -> Dataset:
    """A table of numbers with a header; ``label`` names the column that holds the classes."""
    header, rows = read_table("csv", path, delimiter)
    if len(rows) < 10:
        raise ValueError(f"csv: {path} has {len(rows)} rows; a split into training and test needs at least 10.")
    place = None if label is None else column("csv", path, header, label)
    names = [name for at, name in enumerate(header) if at != place]
    if not names:
        raise ValueError(f"csv: {path} has no column beside {label!r}; pass a table with columns of numbers.")
    # In float32, moments of time in seconds would all be the same before they are standardised.
    table = torch.empty(len(rows), len(names), dtype=torch.float64)
    for number, row in enumerate(rows):
        values = row if place is None else row[:place] + row[place + 1 :]
        try:
            table[number] = torch.tensor([float(value) for value in values], dtype=torch.float64)
        except ValueError as error:
            at = next(at for at, value in enumerate(values) if not _is_number(value))
            raise ValueError(
                f"csv: column {names[at]!r} of {path} holds {values[at][:40]!r} in row {number + 1}, which is no "
                "number; pass a table of numbers, with its class in ?label=COLUMN."
            ) from error
    wrong = ~(table.abs() <= LARGEST)
    if wrong.any():
        number, at = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"csv: column {names[at]!r} of {path} holds {float(table[number, at])} in row {number + 1}; fill it, or "
            f"scale it below {LARGEST:g}."
        )
    if place is None:
        return standardised(split(str(path), MODALITY, (), table, None))
    classes, labels = numbered(row[place] for row in rows)
    several = len(classes) > 1
    return standardised(split(str(path), MODALITY, classes if several else (), table, labels if several else None))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
