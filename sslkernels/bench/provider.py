# SPDX-License-Identifier: Apache-2.0
"""The interface of everything that is timed: `Provider`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from sslkernels.bench.cases.case import Exact, Inputs, Step
from sslkernels.bench.workloads import Workload

# A dense provider holds three float32 numbers a pair: logits, their softmax and its gradient.
_DENSE_BYTES_PER_PAIR = 12
# Beyond so many bytes it would swap.
_MOST_DENSE_BYTES_ON_CPU = 8 << 30


@dataclass(frozen=True)
class Task:
    """The inputs that a provider is timed on, and the truth it is compared with.

    ``note`` is a sentence where they are not those of the workload itself.
    """

    inputs: Inputs
    exact: Exact
    note: str | None = None


class Provider(ABC):
    """Something that can run a workload, or say in one sentence why not."""

    name: str

    @abstractmethod
    def why_not(self, workload: Workload, device: torch.device, dtype: torch.dtype) -> str | None: ...

    def task(self, workload: Workload, inputs: Inputs) -> Task:
        """Name the work that it does: the whole workload, unless a peer has something in its place."""
        return Task(inputs, workload.case.exact)

    @abstractmethod
    def step(self, workload: Workload, inputs: Inputs) -> Step:
        """Prepare a forward pass on the inputs of its `task`."""


def too_large(workload: Workload, device: torch.device) -> str | None:
    """Say why a dense provider is skipped, where its numbers do not fit."""
    needed = workload.pairs * _DENSE_BYTES_PER_PAIR
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] if torch.cuda.is_available() else needed
    else:
        limit = _MOST_DENSE_BYTES_ON_CPU
    if needed <= limit:
        return None
    return f"it stores the matrix, about {needed / 2**30:.0f} GiB; the limit here is {limit / 2**30:.0f} GiB."
