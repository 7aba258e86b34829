# SPDX-License-Identifier: Apache-2.0
"""How time, memory and the peaks of the hardware are measured.

Time    Providers take turns, a slice of calls each, in one process on the same tensors. A slice in which threads stood
        in the run queue, because another process had the processor, is discarded and taken again. A CUDA device has
        ways of its own; see `sslkernels.bench.device_timing`.
Memory  The highest use above that before the call; see `sslkernels.peak_memory`.
Peaks   The best of several large matrix products in that dtype, and of several large copies.
"""

from __future__ import annotations

import glob
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from sslkernels.backends import release_workspace
from sslkernels.bench import device_timing
from sslkernels.bench.cases.case import Cost, Inputs, Step
from sslkernels.bench.gate import device_of, differentiable, slopes
from sslkernels.bench.samples import Timing
from sslkernels.peak_memory import peak_memory


@dataclass
class _Slice:
    forward: list[float]
    backward: list[float]
    page_faults: int
    disturbed: bool

    @property
    def spent(self) -> float:
        return sum(self.forward) + sum(self.backward)


# Slices of a provider.
ROUNDS = 8
# Calls of a provider.
LEAST = 5
# Calls of a slice.
MOST_CALLS = 400
# The share of a slice that threads may wait for a processor before it counts as disturbed.
WAITING = 0.05


def interleaved(
    timed: Mapping[str, tuple[Step, Inputs]], seconds: float, watch: Callable[[str], None] | None = None
) -> Mapping[str, Timing]:
    """Time every step in turn, for about ``seconds`` and `LEAST` calls each, with the gradients its inputs require.

    A slow step ends at three calls and three times the seconds; a disturbed one at twice of either.
    """
    if any(on_device(device_of(inputs)) for _, inputs in timed.values()):
        return device_timing.interleaved(timed, seconds, watch)
    slices: dict[str, list[_Slice]] = {name: [] for name in timed}
    waiting = list(timed)
    while waiting:
        for name in list(waiting):
            if watch is not None:
                watch(name)
            taken = slices[name]
            step, inputs = timed[name]
            taken.append(_slice(step, list(differentiable(inputs).values()), device_of(inputs), seconds / ROUNDS))
            clean = [s for s in taken if not s.disturbed]
            if _enough(clean, seconds, 1) or _enough(taken, seconds, 2) or len(taken) >= 3 * ROUNDS:
                waiting.remove(name)
    return {name: _kept(taken) for name, taken in slices.items()}


def _enough(taken: list[_Slice], seconds: float, times: int) -> bool:
    spent, calls = sum(s.spent for s in taken), sum(len(s.forward) for s in taken)
    usual = spent >= times * seconds and calls >= times * LEAST
    return usual or (spent >= 3 * times * seconds and calls >= 3 * times)


def _slice(step: Step, wanted: list[Tensor], device: torch.device, seconds: float) -> _Slice:
    faults, waited, start = _page_faults(), waited_seconds(), time.perf_counter()
    forward, backward = [], []
    while True:
        f, b = once(step, wanted, device)
        forward.append(f)
        backward.append(b)
        wall = time.perf_counter() - start
        if wall >= seconds or len(forward) >= MOST_CALLS:
            break
    disturbed = waited_seconds() - waited > WAITING * wall
    return _Slice(forward, backward, (_page_faults() - faults) // len(forward), disturbed)


def _kept(taken: list[_Slice]) -> Timing:
    """Keep the clean slices. Where there are too few, keep all of them and say so."""
    clean = [s for s in taken if not s.disturbed]
    disturbed = sum(len(s.forward) for s in clean) < 3 and len(clean) < len(taken)
    kept = taken if disturbed else clean
    timing = Timing(disturbed=disturbed, discarded=sum(len(s.forward) for s in taken if s not in kept))
    for s in kept:
        timing.forward += s.forward
        timing.backward += s.backward
    timing.page_faults = sorted(s.page_faults for s in kept)[len(kept) // 2]
    return timing


def on_device(device: torch.device) -> bool:
    """True where time is that of a CUDA device."""
    return device.type == "cuda"


def once(step: Step, wanted: list[Tensor], device: torch.device) -> tuple[float, float]:
    """The seconds of one forward, and of its backward. On a CUDA device all of them count as the forward's."""
    if on_device(device):
        return device_timing.host_seconds(lambda: slopes(step(), wanted)), 0.0
    start = time.perf_counter()
    result = step()
    middle = time.perf_counter()
    slopes(result, wanted)
    return middle - start, time.perf_counter() - middle if wanted else 0.0


def waited_seconds() -> float:
    """How long this process's threads were ready to run and had no processor. 0 where the system does not tell."""
    total = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        try:
            total += int(Path(path).read_text().split()[1])
        except (OSError, IndexError, ValueError):  # a thread that ended meanwhile
            continue
    return total / 1e9


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def step_memory(step: Step, inputs: Inputs) -> int | None:
    """Measure the `peak_memory` of one forward and backward, with loss and gradients.

    The C++ workspace is released before, so that all of it counts.
    """
    release_workspace()
    wanted = list(differentiable(inputs).values())
    return peak_memory(lambda: slopes(step(), wanted), device_of(inputs))


@dataclass(frozen=True)
class Floor:
    """The time that no implementation of this cost can beat, exponentials apart."""

    seconds: float
    bound: str


def floor(cost: Cost, peak: float, bandwidth: float) -> Floor:
    """The larger of operations / peak and bytes / bandwidth. Both rates are per second."""
    by_operations, by_bytes = cost.operations / peak, cost.bytes / bandwidth
    return Floor(max(by_operations, by_bytes), "operations" if by_operations >= by_bytes else "bytes")


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large matrix product. A 16-bit one is never below float32's: it can widen to that."""
    rate = _matmul_rate(dtype, device, _rounding())
    return max(rate, _matmul_rate(torch.float32, device, _rounding())) if dtype.itemsize < 4 else rate


def _rounding() -> str:
    """How float32 products are rounded, on which their rate depends."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by both of torch's names for it
        return ""


@cache
def _matmul_rate(dtype: torch.dtype, device: torch.device, rounding: str) -> float:
    rate = 0.0
    for n in (512, 8192 if device.type == "cuda" else 2048):
        if rate and 2 * n**3 / rate > 1:
            break  # the device has no fast product in this dtype, as most CPUs have none in float16
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        rate = max(rate, 2 * n**3 / _best(partial(torch.mm, a, b), device))
    return rate


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a large copy, those read and those written together."""
    source = torch.ones((1 << 30 if device.type == "cuda" else 1 << 28) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device)


def _best(call: Callable[[], object], device: torch.device) -> float:
    if on_device(device):
        return device_timing.best(call, device)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])
