# SPDX-License-Identifier: Apache-2.0
"""The workloads: every case at each of its sizes, and how a command selects them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

import torch

from sslkernels.bench.cases import CASES, FAMILIES, Case, Cost, Draw, Target
from sslkernels.bench.cases.case import DTYPES, Preset

__all__ = ["DTYPES", "FAMILIES", "NAMES", "WORKLOADS", "Preset", "Workload", "select"]

# The names that a command may be given.
NAMES = tuple(dict.fromkeys((*FAMILIES, *CASES, "all")))


@dataclass(frozen=True)
class Workload:
    """An op at one shape. The dimensions of its `Case` name the sizes."""

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
        """How many numbers a dense provider stores; see `Case`."""
        return self.case.pairs(self.shape)

    def targets_for(self, dtype: str, device: str) -> tuple[Target, ...]:
        return tuple(target for target in self.targets if (target.dtype, target.device) == (dtype, device))

    def inputs(self, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0) -> dict[str, Any]:
        """Draw the tensors by argument name. Those that a training step differentiates by require a gradient.

        They are drawn on the device itself: one thread of the host needs half a minute for the largest.
        """
        here = torch.device(device).type == "cuda" and torch.cuda.is_available()
        generator = torch.Generator(device if here else "cpu").manual_seed(seed)
        return self.case.inputs(self.shape, Draw(dtype, device, generator))

    def cost(self, dtype: torch.dtype) -> Cost:
        """The fewest operations and bytes of a forward and a backward; see `Case`."""
        return self.case.cost(self.shape, dtype)


# They are sorted by preset, and in each preset by the order of the cases.
WORKLOADS = tuple(
    Workload(case.op, size.shape, size.preset, size.targets, size.recipe_too)
    for preset in get_args(Preset)
    for case in CASES.values()
    for size in case.sizes
    if size.preset == preset
)


def select(what: str, preset: Preset, only: Iterable[str] = ()) -> list[Workload]:
    """The workloads of a family, of an op or of "all" in a preset. Their names have one of the texts in ``only``."""
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
