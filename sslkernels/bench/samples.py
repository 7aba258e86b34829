# SPDX-License-Identifier: Apache-2.0
"""The seconds that were measured of one provider, and the fields that they give its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Timing:
    """The seconds of each kept call, forward and backward (0 for an update), and what was seen around them."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    page_faults: int = 0
    discarded: int = 0
    disturbed: bool = False

    def summary(self) -> dict[str, dict[str, float]]:
        both = [f + b for f, b in zip(self.forward, self.backward, strict=True)]
        phases = {"fwd": self.forward, "bwd": self.backward, "fwd+bwd": both}
        return {phase: quantiles(seconds) for phase, seconds in phases.items() if any(seconds)}

    def fields(self) -> dict[str, Any]:
        """Return the part of the record that tells of it."""
        return {
            "seconds": self.summary(),
            "repeats": len(self.forward),
            "discarded": self.discarded,
            "disturbed": self.disturbed,
            "page_faults": self.page_faults,
        }


@dataclass
class DeviceTiming(Timing):
    """Timing of a CUDA device. Forward and backward are the device's own seconds, a number for each pair of events.

    host: seconds of forward and backward as the host sees them, up to the end of the device's work.
    graph: the device's seconds of one replay of forward and backward captured as a CUDA graph.
    no_graph: the sentence that says why there is no such graph.
    calls: forward passes, or whole steps, between two events.
    starved: True where the device waited for the host in spite of the backlog, so that its seconds hold gaps.
    """

    host: list[float] = field(default_factory=list)
    graph: list[float] = field(default_factory=list)
    no_graph: str | None = None
    calls: int = 1
    starved: bool = False

    def fields(self) -> dict[str, Any]:
        return {
            **super().fields(),
            "host_seconds": quantiles(self.host),
            "graph_seconds": quantiles(self.graph) if self.graph else None,
            "no_graph": self.no_graph,
            "calls": self.calls,
            "starved": self.starved,
        }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    values = torch.tensor(seconds, dtype=torch.float64)
    p20, median, p80 = values.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return {"median": median, "p20": p20, "p80": p80}
