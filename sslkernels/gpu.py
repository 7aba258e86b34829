# SPDX-License-Identifier: Apache-2.0
"""Say which GPUs the kernels run on, and ask each once for its multiprocessors and its compute capability.

Launches follow these two numbers and ask for them several times, and PyTorch's own answer takes microseconds.
"""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Gpu(NamedTuple):
    """Hold what launches must know of a GPU. ``capability`` is NVIDIA's, and (0, 0) for other makers."""

    processors: int
    capability: tuple[int, int]


# CMakeLists.txt has no older compute capability, and older GPUs do not multiply bfloat16.
OLDEST = (8, 0)
# Triton's interpreter, which works on the CPU, gets a few multiprocessors, so that it splits work.
INTERPRETER = Gpu(4, (0, 0))
_NOTHING = nullcontext()


def processors(device: torch.device) -> int:
    """Count the multiprocessors of a GPU; the interpreter has 4. `every_gpu_is` replaces the answer for GPUs."""
    return _known[device].processors


def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a GPU; (0, 0) for the interpreter and for GPUs of other makers.

    `every_gpu_is` replaces the answer for GPUs.
    """
    return _known[device].capability


def asked_once(ask: Callable[[K], V]) -> Callable[[K], V]:
    """Keep the answers of ``ask``, which takes one argument, and let torch.compile take them for constants.

    torch.compile cannot trace what asks the driver, and need not, since the answer stays the same. It warns about
    functools.cache, and torch.compiler.assume_constant_result takes a second to import.
    """
    answers: dict[K, V] = {}

    @functools.wraps(ask)
    def kept(key: K) -> V:
        if key not in answers:
            answers[key] = ask(key)
        return answers[key]

    kept._dynamo_marked_constant = True  # type: ignore[attr-defined]
    kept.cache_clear = answers.clear  # type: ignore[attr-defined]
    return kept


def why_not(device: torch.device) -> str | None:
    """Say in one sentence why neither Triton nor CUDA kernels can run on a CUDA ``device``; None if they can.

    PyTorch gives AMD's GPUs the same type of device. If it sees no GPU, tensors that name one are fake: a graph is
    compiled for another machine, of which nothing is known. A recorder's GPU can run everything.
    """
    return _why_not(with_index(device)) if type(_known) is _Asked else None


@asked_once
def _why_not(device: torch.device) -> str | None:
    if torch.version.hip is not None:
        return "this PyTorch is one for AMD's GPUs (ROCm) and the kernels are for NVIDIA's."
    if sys.platform != "linux":
        return f"the kernels for GPUs need Linux, and this system is {sys.platform}."
    if not torch.cuda.is_available():
        return "this PyTorch sees no CUDA device." if device.index is None else None
    if (device.index or 0) >= torch.cuda.device_count():
        return f"PyTorch sees {torch.cuda.device_count()} CUDA devices and the tensors are on number {device.index}."
    if (here := capability(device)) < OLDEST:
        needed, found = (".".join(map(str, version)) for version in (OLDEST, here))
        return f"the kernels for GPUs need compute capability {needed}, and {device} has {found}."
    return None


def with_index(device: torch.device) -> torch.device:
    """Name the CUDA device that ``device`` means at this moment; one without an index is the current one."""
    if device.index is not None or not torch.cuda.is_available():
        return device
    return torch.device("cuda", torch.cuda.current_device())


def guard(x: Tensor) -> AbstractContextManager[object]:
    """Make the GPU of ``x`` the current one in a block; nothing happens if it is, or if ``x`` is on no GPU."""
    index = x.get_device() if x.is_cuda else -1
    if index < 0 or index == torch.cuda.current_device():
        return _NOTHING
    return torch.cuda.device(index)


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
