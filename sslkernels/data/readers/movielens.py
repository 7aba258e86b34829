# SPDX-License-Identifier: Apache-2.0
"""Reads what users did in time as numbered items: MovieLens-100k as it comes with RecBole, or a user's log."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import torch

from sslkernels.arguments import check_size
from sslkernels.data.dataset import Dataset, split
from sslkernels.data.installed import Package
from sslkernels.data.tables import column, numbered, padded, read_table, vocabulary

MODALITY = "interactions"
PACKAGE = Package("recbole", "2 MB", "the data has GroupLens' own terms", module="recbole")
LIKED = 4.0
# The first age of each band but the youngest.
AGES = (25, 35, 50)
BANDS = ("under 25", "25 to 34", "35 to 49", "50 and older")


def load_movielens(*, label: Literal["gender", "age", "occupation"] = "age", length: int = 64) -> Dataset:
    """Films that 943 users rated 4 or 5, in time, as numbers (MovieLens-100k, Harper and Konstan 2015, from recbole).

    The label is what is known of the user, ages in four bands. The latest ``length`` films are kept. No user is on both
    sides of the split. Terms of the data forbid redistribution without permission.
    """
    header, rows = read_table("movielens", PACKAGE.path("movielens", *FOLDER, "ml-100k.inter"), "\t")
    liked: dict[str, list[tuple[float, str]]] = {}
    for user, item, rating, moment in rows:
        if float(rating) >= LIKED:
            liked.setdefault(user, []).append((float(moment), item))
    header, people = read_table("movielens", PACKAGE.path("movielens", *FOLDER, "ml-100k.user"), "\t")
    people = [row for row in people if row[0] in liked]
    histories = [[item for _, item in sorted(liked[row[0]])] for row in people]
    inputs = _latest("movielens", histories, length)
    if label == "age":
        labels = torch.tensor([sum(int(row[1]) >= age for age in AGES) for row in people])
        classes: tuple[str, ...] = BANDS
    else:
        classes, labels = numbered(row[2 if label == "gender" else 3] for row in people)
        labels, classes = _frequent(labels, classes)
    return split("movielens", MODALITY, classes, inputs, labels, user=torch.tensor([int(row[0]) for row in people]))


FOLDER = ("dataset_example", "ml-100k")


def _frequent(labels: torch.Tensor, classes: tuple[str, ...], least: int = 20) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Join classes of fewer than ``least`` users in one, so that each can be probed."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    kept = [name for name, count in zip(classes, counts, strict=True) if count >= least]
    if len(kept) == len(classes):
        return labels, classes
    names = (*kept, "another")
    return torch.tensor(
        [names.index(classes[at]) if classes[at] in kept else len(kept) for at in labels.tolist()]
    ), names


def load_interactions(
    path: Path, *, user: str = "user", item: str = "item", time: str | None = None, length: int = 64
) -> Dataset:
    """A log with a row for each event, a table of tabs: its users with their items, in the order of column ``time``."""
    header, rows = read_table("interactions", path, "\t")
    who, what = (column("interactions", path, header, name) for name in (user, item))
    if time is not None:
        when = column("interactions", path, header, time)
        try:
            moments = [float(row[when]) for row in rows]
        except ValueError as error:
            raise ValueError(f"interactions: column {time!r} of {path} holds what is no number ({error}).") from error
        if not all(map(math.isfinite, moments)):
            raise ValueError(f"interactions: column {time!r} of {path} holds moments that are not finite; fill them.")
        rows = [rows[at] for at in sorted(range(len(rows)), key=moments.__getitem__)]
    histories: dict[str, list[str]] = {}
    for row in rows:
        histories.setdefault(row[who], []).append(row[what])
    if len(histories) < 10:
        raise ValueError(f"interactions: {path} has {len(histories)} users; a split needs at least 10.")
    return split(str(path), MODALITY, (), _latest("interactions", histories.values(), length), None)


def _latest(reader: str, histories: Collection[Sequence[str]], length: int) -> torch.Tensor:
    """Number the items by how frequent they are, and take the latest ``length`` of each history."""
    check_size(reader, "length", length)
    known = vocabulary(histories, sum(map(len, histories)))
    return padded(reader, [[known[item] for item in items[-length:]] for items in histories], length)
