# SPDX-License-Identifier: Apache-2.0
"""Measures the peak memory of a call, rather than estimating it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Measure how many bytes ``call`` needs at its peak beyond those held before; None where the system does not tell.

    On CUDA this is the allocator's peak. On Linux it is the kernel's high-water mark of resident memory, which a 5 in
    ``/proc/self/clear_refs`` resets and ``VmHWM`` shows. Scratch that an earlier call kept does not count:
    `sslkernels.release_workspace` gives back that of ours.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # pages that the allocator keeps would be reused unseen
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
