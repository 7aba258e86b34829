# SPDX-License-Identifier: Apache-2.0
"""Puts the CPU, Triton's interpreter and a clock of its own in the place of a GPU, and tiny shapes in that of the plan.

Every part calls `device` first. On a GPU that changes nothing.
"""

from __future__ import annotations

import os
from functools import partial

import torch

from device.plan import F32, Item
from device.stand_in import StandIn
from sslkernels.bench import control, device_timing, timing
from sslkernels.bench.cases import sigreg
from sslkernels.bench.workloads import WORKLOADS, Workload

REHEARSED = os.environ.get("SSLKERNELS_DEVICE_REHEARSAL") == "1"
_WITHOUT_SIZES = {"logsumexp_similarity": (9, 13, 8)}


def device() -> torch.device:
    """The device of this run. In a rehearsal it is the CPU, which is timed as if it were a GPU."""
    if not REHEARSED:
        return torch.device("cuda", 0)
    torch.set_num_threads(1)
    stand_in = StandIn()
    device_timing.ROUNDS = device_timing.MOST_CALLS = 2
    device_timing.cuda, device_timing.now, device_timing.buffer = stand_in, stand_in.now, stand_in.buffer  # type: ignore[assignment]
    device_timing.kernels = lambda step, inputs, most=12: {"a kernel": float(step() is None)}
    sigreg.SLICES = 16  # the interpreter takes a minute for all of them
    timing.on_device = control.on_device = lambda device: True
    torch.compile = partial(torch.compile, backend="eager")  # type: ignore[assignment]
    timing._matmul_rate = lambda *_: 1e9  # type: ignore[assignment]
    timing.copy_bandwidth = lambda device: 1e9
    return torch.device("cpu")


def distinct(items: list[Item]) -> list[Item]:
    """The items. Of those that are the same in a rehearsal, the first."""
    if not REHEARSED:
        return items
    return list({(item.op, dtype(item), item.providers): item for item in reversed(items)}.values())[::-1]


def lost() -> bool:
    """True where a kernel broke the device for this process, so that a new one has to go on."""
    try:
        device_timing.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def workload(item: Item) -> Workload:
    """The item's workload, or in a rehearsal the tiniest of its op."""
    if not REHEARSED:
        return next(
            (w for w in WORKLOADS if (w.op, w.shape) == (item.op, item.shape)),
            Workload(item.op, item.shape, "recipe"),
        )
    return next(
        (w for w in WORKLOADS if w.op == item.op and w.preset == "quick"),
        Workload(item.op, _WITHOUT_SIZES.get(item.op, ()), "quick"),
    )


def dtype(item: Item) -> str:
    """The item's dtype. Triton's interpreter multiplies no bfloat16, and one dtype is enough for a rehearsal."""
    return F32 if REHEARSED else item.dtype
