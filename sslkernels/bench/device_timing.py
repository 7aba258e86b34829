# SPDX-License-Identifier: Apache-2.0
"""How time is measured on a CUDA device. Three numbers of a step are columns of their own.

device  L2 is overwritten, the device is put to sleep, and several calls are queued behind the sleep between two events.
        The device finds all of them ready when it wakes, so the host's time is not in the number.
host    One call and a wait for its end: what a script sees that looks at every loss.
graph   As `device`, for replays of the step captured as a CUDA graph. A step that cannot be captured says why.

A sleep that ended before the last call was queued did not hide the host. It is then made longer, and in the end the
calls fewer; a step that waits for the device by itself stays `starved`, and its record says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslkernels.bench.cases.case import Inputs, Step
from sslkernels.bench.gate import device_of, differentiable, slopes
from sslkernels.bench.samples import DeviceTiming
from sslkernels.terminal import printable

# Rounds in which every provider has its turn, and calls between two events at most.
ROUNDS = 5
MOST_CALLS = 10
# Calls of each round that the host waits for, at most as many as are between two events.
HOST_CALLS = 3
# Bytes written before a round. The largest L2, that of a B200, has 126 MB.
FLUSHED = 256 << 20
# The sleep before the first event: so many times the host's own seconds for the calls, and seconds more.
BACKLOG, LEAST_BACKLOG = 2.0, 2e-3
# Sleeps that are tried for one step.
TRIES = 4
# Cycles of the sleep that measures the clock.
_CYCLES = 2_000_000
# Seconds. No number in a record is smaller; the difference of two times could be zero, or below.
_LEAST = 1e-8

# Tests and rehearsals put a stand-in with a clock of its own in the place of these.
cuda: Any = torch.cuda
now: Callable[[], float] = time.perf_counter


def buffer(device: torch.device) -> Tensor:
    """The memory that is written to drive everything else out of L2."""
    return torch.empty(FLUSHED, dtype=torch.uint8, device=device)


@dataclass
class _Queue:
    """Queues calls behind a sleep, and takes the time between two events around them."""

    device: torch.device
    hertz: float = 0.0
    scratch: Any = field(init=False)

    def __post_init__(self) -> None:
        self.scratch = buffer(self.device)
        self.hertz = clock()

    def seconds(self, call: Callable[[], object], calls: int, backlog: float) -> tuple[float, bool]:
        """The device's seconds of one of ``calls`` calls, and True where the backlog lasted until all were queued."""
        first, last = (cuda.Event(enable_timing=True) for _ in range(2))
        self.scratch.zero_()
        cuda._sleep(int(backlog * self.hertz))
        first.record()
        for _ in range(calls):
            call()
        asleep = not first.query()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / calls, asleep


@dataclass
class _Turn:
    """A provider that waits for its turns: its step, its captured graph, and how many calls fit a pair of events."""

    step: Step
    wanted: list[Tensor]
    graph: Any
    backlog: float
    timing: DeviceTiming

    def whole(self) -> object:
        result = self.step()
        return result, slopes(result, self.wanted)

    def take(self, queue: _Queue) -> None:
        """Add a number to every column."""
        found = self.timing
        whole = max(self._on_device(queue, self.whole), _LEAST)
        forward = max(min(self._on_device(queue, self.step), whole - _LEAST), _LEAST) if self.wanted else whole
        found.forward.append(forward)
        found.backward.append(whole - forward if self.wanted else 0.0)
        for _ in range(min(HOST_CALLS, found.calls)):
            found.host.append(max(host_seconds(self.whole), _LEAST))
        if self.graph is not None:
            found.graph.append(max(self._on_device(queue, self.graph.replay), _LEAST))

    def drop_graph(self) -> None:
        """Give back the memory of the graph, which holds everything that the step needs."""
        if self.graph is not None:
            self.graph = None
            self.timing.graph.clear()
            self.timing.no_graph = "the graphs of all providers do not fit into memory beside each other."
            cuda.empty_cache()

    def _on_device(self, queue: _Queue, call: Callable[[], object]) -> float:
        for _ in range(TRIES):
            seconds, asleep = queue.seconds(call, self.timing.calls, self.backlog)
            if asleep or self.timing.starved:
                return seconds
            self.backlog *= 2
            # The driver queues about a thousand launches, and then the host waits however long the sleep is.
            self.timing.calls = max(1, self.timing.calls // 2)
        self.timing.starved = True
        return seconds


def interleaved(
    timed: Mapping[str, tuple[Step, Inputs]], seconds: float, watch: Callable[[str], None] | None = None
) -> dict[str, DeviceTiming]:
    """Time every step in turn, `ROUNDS` times, with about ``seconds`` for each."""
    queue = _Queue(device_of(next(iter(timed.values()))[1]))
    turns = {}
    for name, (step, inputs) in timed.items():
        if watch is not None:
            watch(name)
        turns[name] = _prepared(step, list(differentiable(inputs).values()), seconds)
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            if watch is not None:
                watch(name)
            try:
                turn.take(queue)
            except torch.OutOfMemoryError:
                if all(each.graph is None for each in turns.values()):
                    raise
                for each in turns.values():
                    each.drop_graph()
                turn.take(queue)
    return {name: turn.timing for name, turn in turns.items()}


def _prepared(step: Step, wanted: list[Tensor], seconds: float, capture: bool = True) -> _Turn:
    turn = _Turn(step, wanted, None, 0.0, DeviceTiming())
    for _ in range(3):  # kernels are loaded, and workspaces allocated
        visible = max(host_seconds(turn.whole), _LEAST)
    start = now()
    turn.whole()
    queueing = now() - start
    cuda.synchronize()
    # A round has three pairs of events: of the forward, of the whole step, and of the graph.
    turn.timing.calls = max(1, min(MOST_CALLS, int(seconds / ROUNDS / (3 * visible))))
    turn.backlog = BACKLOG * turn.timing.calls * queueing + LEAST_BACKLOG
    if not capture:
        return turn
    try:
        turn.graph, _ = captured(turn.whole)
    except Exception as error:  # whatever forbids a capture is a result: the other two columns stay
        words = printable(next(iter(str(error).splitlines()), ""))[:500]
        turn.timing.no_graph = f"it cannot be captured: {type(error).__name__}: {words}"
    return turn


def captured(call: Callable[[], Any]) -> tuple[Any, Any]:
    """Capture ``call`` as a CUDA graph; return it and the tensors that a replay fills."""
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):  # what is done at the first use alone, such as loading a kernel, must not be captured
        call()
    cuda.current_stream().wait_stream(side)
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    try:
        with cuda.graph(graph):
            static = call()
    finally:
        cuda.synchronize()
    return graph, static


def host_seconds(call: Callable[[], object]) -> float:
    """The seconds of a call with a wait for its end."""
    cuda.synchronize()
    start = now()
    call()
    cuda.synchronize()
    return now() - start


def clock() -> float:
    """Cycles per second of the device now, from a sleep of known cycles."""
    for _ in range(2):  # the first wakes the device up
        first, last = (cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        cuda._sleep(_CYCLES)
        last.record()
        last.synchronize()
    return _CYCLES / (first.elapsed_time(last) / 1e3)


def seconds(step: Step, wanted: list[Tensor], device: torch.device) -> float:
    """The device's seconds of a step, the middle one of three."""
    queue, turn = _Queue(device), _prepared(step, wanted, 0.0, capture=False)
    return sorted(queue.seconds(turn.whole, turn.timing.calls, turn.backlog)[0] for _ in range(3))[1]


def best(call: Callable[[], object], device: torch.device) -> float:
    """The device's seconds of the fastest of several calls, as peaks are taken."""
    queue = _Queue(device)
    call()
    return min(queue.seconds(call, 1, LEAST_BACKLOG)[0] for _ in range(8))


def kernels(step: Step, inputs: Inputs, most: int = 12) -> dict[str, float]:
    """The device's seconds of each kernel of a step, longest first, by the profiler.

    Profiled launches are slower from then on, so nothing is timed after this.
    """
    wanted, calls = list(differentiable(inputs).values()), 3
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            slopes(step(), wanted)
        cuda.synchronize()
    found = {event.key: event.self_device_time_total / 1e6 / calls for event in profile.key_averages()}
    longest = sorted((key for key in found if found[key] > 0), key=found.__getitem__, reverse=True)
    return {printable(key)[:200]: found[key] for key in longest[:most]}
