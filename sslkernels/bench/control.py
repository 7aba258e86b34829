# SPDX-License-Identifier: Apache-2.0
"""The control of a row: the same call shortly before and after everybody is timed, to see whether the machine moved.

It is the eager step, or a matrix product where eager does not run. A row beside which it moved is timed again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from sslkernels.bench import device_timing
from sslkernels.bench.cases.case import Inputs, Step
from sslkernels.bench.gate import device_of, differentiable
from sslkernels.bench.records import Record
from sslkernels.bench.timing import on_device, once

# The share by which the control may differ.
MOVED = 0.1
# Times that a row is timed at most. Nobody else has a lent GPU, and its minutes are few.
ATTEMPTS, ON_DEVICE = 3, 1
# Calls of the control, and the seconds after which no further one begins.
LEAST, MOST, SECONDS = 3, 20, 0.3
# Seconds of calls that are not counted, in which threads and caches come back.
WARM = 0.02

_PRODUCT = 512
Timed = TypeVar("Timed")


def control(
    steps: Mapping[str, tuple[Step, Inputs]], dtype: torch.dtype, device: torch.device
) -> tuple[str, Callable[[], float]]:
    """The name of the control for these steps by provider, and a function that measures its seconds."""
    if "eager" in steps:
        step, inputs = steps["eager"]
        return "eager", lambda: _seconds(step, inputs)
    a = torch.randn(_PRODUCT, _PRODUCT, device=device).to(dtype)
    return f"torch.mm of {_PRODUCT}x{_PRODUCT}", lambda: _seconds(lambda: torch.mm(a, a), {"a": a})


def settled(
    what: str, seconds: Callable[[], float], take: Callable[[], Timed], most: int = ATTEMPTS
) -> tuple[Timed, Record]:
    """Call ``take`` between two looks at the control, again where it moved, and return the last result.

    The fields of a record come with it. ``unsettled`` is among them where the control moved each of ``most`` times.
    """
    attempts, still = 0, False
    while not still and attempts < most:
        attempts += 1
        before = seconds()
        taken = take()
        after = seconds()
        still = max(before, after) <= (1 + MOVED) * min(before, after)
    fields: Record = {"control": {"what": what, "before": before, "after": after, "attempts": attempts}}
    return taken, fields if still else {**fields, "unsettled": True}


def _seconds(step: Step, inputs: Inputs) -> float:
    """The median of a few calls."""
    wanted, device = list(differentiable(inputs).values()), device_of(inputs)
    if on_device(device):
        return device_timing.seconds(step, wanted, device)
    start = time.perf_counter()
    while True:
        once(step, wanted, device)
        if time.perf_counter() - start >= WARM:
            break
    calls: list[float] = []
    while len(calls) < LEAST or (len(calls) < MOST and sum(calls) < SECONDS):
        calls.append(sum(once(step, wanted, device)))
    return statistics.median(calls)
