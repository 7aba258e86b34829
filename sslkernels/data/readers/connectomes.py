# SPDX-License-Identifier: Apache-2.0
"""Reads the connectomes of mice that come with graspologic: regions of brains, and the fibres between them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch

from sslkernels.data.dataset import Dataset, split_by_group
from sslkernels.data.graphs import Graphs
from sslkernels.data.installed import Package
from sslkernels.data.tables import numbered

MODALITY = "graphs"
PACKAGE = Package("graspologic", "5 MB", "MIT", module="graspologic")
FOLDER = ("datasets", "mice")
MEASURED = ("volume_mm3", "adc", "dwi", "e1", "e2", "e3", "fa", "rd")
# Neighbours of a region that its graph has: those with the most fibres to it.
NEIGHBOURS = 12
HELD_OUT = 4  # every so many-th animal, so that each genotype has two of eight on the other side


def load_connectomes() -> Dataset:
    """10,624 regions of 32 mouse brains, each with its 12 strongest neighbours, by brain division (graspologic, MIT).

    A node is what diffusion MRI measured in its region, and whether it is the one that the graph is about. ``extra``
    has the ``animal``; none is on both sides of the split.
    """
    atlas = {int(row["ROI"]): row["Level_1"] for row in _table(PACKAGE.path("connectomes", *FOLDER, "atlas.csv"))}
    people = _table(PACKAGE.path("connectomes", *FOLDER, "participants.csv"))
    xs, edges, divisions, animals = [], [], [], []
    for animal, person in enumerate(people):
        name = person["participant_id"]
        features = PACKAGE.path("connectomes", *FOLDER, "features", f"{name.removeprefix('sub-')}.csv")
        rows = [row for row in _table(features, skip=2) if row["ROI"] != "0"]  # 0 is what lies outside the brain
        measured = torch.tensor([[float(row[column]) for column in MEASURED] for row in rows])
        strengths = _strengths(
            PACKAGE.path("connectomes", *FOLDER, "edgelists", f"{name}_ses-1_dti.edgelist"), len(rows)
        )
        nearest = strengths.topk(NEIGHBOURS, dim=1).indices
        chosen = torch.cat([torch.arange(len(rows))[:, None], nearest], 1)  # (regions, 1 + NEIGHBOURS)
        centre = torch.zeros(*chosen.shape, 1)
        centre[:, 0] = 1
        xs.append(torch.cat([measured[chosen], centre], 2))
        # Regions in a graph are joined where fibres join them.
        joined = strengths[chosen[:, :, None], chosen[:, None, :]] > 0
        edges.append(joined.nonzero() + torch.tensor([animal * len(rows), 0, 0]))
        # The right half of a brain has the numbers of the left one, and 1,000 more.
        divisions += [atlas[int(row["ROI"]) % 1000] for row in rows]
        animals += [animal] * len(rows)
    x = torch.cat(xs).flatten(0, 1)
    held_out = list(range(HELD_OUT - 1, len(people), HELD_OUT))
    animal_of = torch.tensor(animals)
    size = 1 + NEIGHBOURS
    trained = x[~torch.isin(animal_of, torch.tensor(held_out)).repeat_interleave(size), :-1]
    x[:, :-1] = (x[:, :-1] - trained.mean(0)) / trained.std(0)
    sample, first, second = torch.cat(edges).T
    count = len(animals)
    batch = torch.arange(count).repeat_interleave(size)
    graphs = Graphs(x, torch.stack([sample * size + first, sample * size + second]), batch, count)
    classes, labels = numbered(divisions)
    return split_by_group("connectomes", MODALITY, classes, graphs, labels, "animal", held_out, animal=animal_of)


def _table(path: Path, skip: int = 0) -> list[dict[str, str]]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()[skip:]
    return list(csv.DictReader(line for line in lines if line.strip()))


def _strengths(path: Path, regions: int) -> torch.Tensor:
    """Fibres between each pair of regions, ``(regions, regions)``, in both directions."""
    first, second, fibres = np.loadtxt(path, unpack=True)
    found = torch.zeros(regions, regions)
    found[first.astype(int), second.astype(int)] = torch.from_numpy(fibres).float()
    return torch.maximum(found, found.T).fill_diagonal_(0)
