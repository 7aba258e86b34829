# SPDX-License-Identifier: Apache-2.0
"""Ask each GPU once for the two numbers that launches follow: its multiprocessors and its compute capability.

A launch asks several times, and PyTorch's own answer takes microseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch


class Gpu(NamedTuple):
    """Hold what launches must know of a GPU. ``capability`` is NVIDIA's, and (0, 0) for other makers."""

    processors: int
    capability: tuple[int, int]


# Triton's interpreter, which works on the CPU, gets a few multiprocessors, so that it splits work.
INTERPRETER = Gpu(4, (0, 0))


def processors(device: torch.device) -> int:
    """Count the multiprocessors of a GPU; the interpreter has 4. `every_gpu_is` replaces the answer for GPUs."""
    return _known[device].processors


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; (0, 0) for the interpreter and for GPUs of other makers.

    `every_gpu_is` replaces the answer for GPUs.
    """
    return _known[device].capability


@contextmanager
def every_gpu_is(gpu: Gpu) -> Iterator[None]:
    """Answer for every CUDA device with the numbers of ``gpu``, and ask none.

    Whoever records or counts launches without a GPU calls this around them.

    >>> import torch
    >>> from sslkernels.gpu import Gpu, every_gpu_is, processors
    >>> with every_gpu_is(Gpu(processors=132, capability=(9, 0))):
    ...     processors(torch.device("cuda", 0))
    132
    """
    global _known
    before, _known = _known, defaultdict(lambda: gpu, {torch.device("cpu"): INTERPRETER})
    try:
        yield
    finally:
        _known = before


class _Asked(dict[torch.device, Gpu]):
    """Ask each device at its first use. A device without an index is the one that is current at the moment."""

    def __missing__(self, device: torch.device) -> Gpu:
        if device.type != "cuda":
            return INTERPRETER
        if device.index is None:
            return self[torch.device("cuda", torch.cuda.current_device())]
        version = (0, 0) if torch.version.hip is not None else torch.cuda.get_device_capability(device)
        self[device] = Gpu(torch.cuda.get_device_properties(device).multi_processor_count, version)
        return self[device]


# The key is the whole device: to read its type takes longer than to find it.
_known: dict[torch.device, Gpu] = _Asked()
