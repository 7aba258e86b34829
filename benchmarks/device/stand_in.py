# SPDX-License-Identifier: Apache-2.0
"""Stands for `torch.cuda` where there is no GPU: one stream, events, a sleep and graphs, on a clock of its own.

Tests launch kernels of known cost on it. In a rehearsal the work itself is the CPU's, costs nothing on this clock, and
is done again when a graph is replayed; so the script's every step is walked through, and no time means anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

HERTZ = 1.5e9
# Seconds of the host for a launch or an event.
LAUNCH = 1e-6


@dataclass
class Clock:
    """The host's time, and the time at which the stream will have done what is queued."""

    host: float = 0.0
    free: float = 0.0

    def launch(self, seconds: float, host: float = LAUNCH) -> None:
        self.host += host
        self.free = max(self.free, self.host) + seconds

    def wait(self) -> None:
        self.host = max(self.host, self.free)


class Again(TorchDispatchMode):
    """Records the ops of a block, to do them again into the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.tape: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.tape.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, out in self.tape:
            for old, new in zip(pytree.tree_leaves(out), pytree.tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():  # else it is a view, or in place
                    old.detach().copy_(new.reshape(old.shape))  # autograd may have taken a dimension off since


@dataclass
class StandIn:
    """The part of `torch.cuda` that the benchmark uses."""

    clock: Clock = field(default_factory=Clock)
    _capturing: Any = None

    def kernel(self, seconds: float, host: float = LAUNCH) -> None:
        """Launch a kernel. While a graph is captured it is written down instead."""
        if self._capturing is not None:
            self.clock.host += host
            self._capturing.seconds += seconds
        else:
            self.clock.launch(seconds, host)

    def now(self) -> float:
        return self.clock.host

    def buffer(self, device: torch.device) -> Any:
        return _Buffer(self)

    def Event(self, enable_timing: bool = False) -> Any:
        return _Event(self)

    def CUDAGraph(self) -> Any:
        return _Graph(self)

    @contextmanager
    def graph(self, graph: Any) -> Iterator[None]:
        self._capturing = graph
        try:
            with graph.work:
                yield
        finally:
            self._capturing = None

    def Stream(self) -> Any:
        return _Stream()

    def current_stream(self) -> Any:
        return _Stream()

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    def _sleep(self, cycles: int) -> None:
        self.clock.launch(cycles / HERTZ)

    def synchronize(self) -> None:
        if self._capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.clock.wait()

    def set_sync_debug_mode(self, mode: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass


@dataclass
class _Event:
    cuda: StandIn
    at: float = 0.0

    def record(self) -> None:
        self.cuda.clock.launch(LAUNCH)
        self.at = self.cuda.clock.free

    def query(self) -> bool:
        return self.cuda.clock.host >= self.at

    def synchronize(self) -> None:
        self.cuda.clock.host = max(self.cuda.clock.host, self.at)

    def elapsed_time(self, other: Any) -> float:
        return 1e3 * (other.at - self.at)


@dataclass
class _Graph:
    cuda: StandIn
    seconds: float = 0.0
    work: Again = field(default_factory=Again)

    def replay(self) -> None:
        self.cuda.clock.launch(self.seconds)
        self.work.replay()


@dataclass
class _Buffer:
    """The memory that is written to empty L2."""

    cuda: StandIn
    written: int = 0

    def zero_(self) -> None:
        self.written += 1
        self.cuda.flushed = True  # type: ignore[attr-defined]
        self.cuda.clock.launch(60e-6)
