# SPDX-License-Identifier: Apache-2.0
"""Several result files as one: later measurements replace earlier ones, and each picture gets its own records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sslkernels.bench.records import Record, read

# Ours have up to 200 of a family; matplotlib draws no picture of more than 65,536 pixels.
MOST_IN_A_PICTURE = 600


@dataclass(frozen=True)
class Results:
    """What files hold together.

    families: records by the name of their pictures: the family, from its second device on with that device's name.
    crossover: those of the sweep over sizes, by the same names.
    trainings: records of `bench train`.
    """

    families: dict[str, list[Record]] = field(default_factory=dict)
    crossover: dict[str, list[Record]] = field(default_factory=dict)
    trainings: list[Record] = field(default_factory=list)

    @property
    def all(self) -> list[Record]:
        groups = (*self.families.values(), *self.crossover.values(), self.trainings)
        return [record for group in groups for record in group]


def load(paths: Iterable[Path]) -> Results:
    """What the files hold; of the same workload, dtype and provider on the same device the later date stands."""
    latest: dict[tuple[object, ...], Record] = {}
    for path in paths:
        for record in read(path):
            device = record["device"]["type"], record["device"]["name"]
            what = ("kind", "preset", "method", "workload", "dtype", "provider", "backend")
            key = (*device, *(record.get(name) for name in what))
            if key not in latest or latest[key]["date"] <= record["date"]:
                latest[key] = record
    results = Results()
    names: dict[tuple[object, ...], str] = {}
    # a processor names a family plainly, in whatever order the files came
    for record in sorted(latest.values(), key=lambda record: record["device"]["type"] != "cpu"):
        if record.get("kind") == "train":
            results.trainings.append(record)
            continue
        swept = record.get("preset") == "crossover"
        groups = results.crossover if swept else results.families
        key = (swept, record["family"], record["device"]["type"], record["device"]["name"])
        if key not in names:
            names[key] = _free_name(record, groups)
        groups.setdefault(names[key], []).append(record)
    largest = max(map(len, (*results.families.values(), *results.crossover.values(), results.trainings)), default=0)
    if largest > MOST_IN_A_PICTURE:
        raise ValueError(f"the files hold {largest} records of one kind; a picture shows {MOST_IN_A_PICTURE} at most.")
    return results


def _free_name(record: Record, taken: Collection[str]) -> str:
    """The family; from its second device on with a number or the device's name, in letters of file names."""
    family = record["family"]
    if family not in taken:
        return family
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"]["name"].lower()).strip("-")[:60] or "device"
    name, number = f"{family}-{slug}", 1
    while name in taken:
        number += 1
        name = f"{family}-{slug}-{number}"
    return name


def digest(records: Sequence[Record]) -> str:
    """The sha256 of the file that holds these records and no others."""
    return hashlib.sha256("".join(json.dumps(record) + "\n" for record in records).encode()).hexdigest()
