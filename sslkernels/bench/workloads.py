# SPDX-License-Identifier: Apache-2.0
"""The workloads: every case at each of its sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import torch

from sslkernels.bench.cases import CASES, FAMILIES, Case, Cost, Draw, Target
from sslkernels.bench.cases.case import DTYPES, Preset

__all__ = ["DTYPES", "FAMILIES", "NAMES", "WORKLOADS", "Preset", "Workload", "select"]

# What a command may be asked for.
NAMES = tuple(dict.fromkeys((*FAMILIES, *CASES, "all")))


@dataclass(frozen=True)
class Workload:
    """An op at one shape, of the sizes that the dimensions of its `Case` name."""

    op: str
    shape: tuple[int, ...]
    preset: Preset = "small"
    targets: tuple[Target, ...] = ()
    recipe_too: bool = False

    def __str__(self) -> str:
        return f"{self.op}-{'x'.join(self.case.printed(self.shape))}"

    @property
    def case(self) -> Case:
        return CASES[self.op]

    @property
    def family(self) -> str:
        return self.case.family.name

    @property
    def pairs(self) -> int:
        """How many numbers a dense provider stores."""
        return self.case.pairs(self.shape)

    def targets_for(self, dtype: str, device: str) -> tuple[Target, ...]:
        return tuple(target for target in self.targets if (target.dtype, target.device) == (dtype, device))

    def inputs(self, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Any]:
        """The tensors, by argument name, for an update in lists. What a training step differentiates by requires it."""
        return self.case.inputs(self.shape, Draw(dtype, device, torch.Generator().manual_seed(seed)))

    def cost(self, dtype: torch.dtype) -> Cost:
        """Fewest operations and bytes of one forward and one backward: nothing recomputed, exponentials not counted."""
        return self.case.cost(self.shape, dtype)


# By preset, and in each in the order of the cases.
WORKLOADS = tuple(
    Workload(case.op, size.shape, size.preset, size.targets, size.recipe_too)
    for preset in get_args(Preset)
    for case in CASES.values()
    for size in case.sizes
    if size.preset == preset
)


def select(what: str, preset: Preset, only: Iterable[str] = ()) -> list[Workload]:
    """Workloads of a family, of an op or "all" in a preset; with ``only``, those with one of the texts in the name."""
    ours = [w for w in WORKLOADS if what in ("all", w.family, w.op)]
    chosen = [w for w in ours if w.preset == preset or (preset == "recipe" and w.recipe_too)]
    if not chosen:
        have = ", ".join(dict.fromkeys(w.preset for w in ours))
        raise ValueError(f"--preset is {preset!r}, in which {what} has no workload; it has some in {have}.")
    wanted = tuple(only)
    if not wanted:
        return chosen
    found = [w for w in chosen if any(text in str(w) for text in wanted)]
    if not found:
        names = ", ".join(map(str, chosen))
        raise ValueError(f"--only is {', '.join(wanted)!r}, which names no {preset} workload; there are {names}.")
    return found
