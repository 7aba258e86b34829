# SPDX-License-Identifier: Apache-2.0
"""Let the ranks of a group find out that they make the same call, and how many rows each holds, in one exchange.

Hosts tell each other, and none waits for its device:

    every call     each rank sends its rows and a checksum of the call's words; unlike ones raise on every rank at once
    a later call   the values of settings that lie on a device, such as a learnable temperature, are compared when all
                   hosts have them; unlike ones then raise on every rank, in the same call

Nothing is remembered instead. A rank that knew a call already would not listen, and a rank whose batch is new could not
tell it; docs/design/ranks.md says more.
"""

from __future__ import annotations

import json
import uuid
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from sslkernels.capture import is_captured

# Ranks must agree on these, whatever function they call. Each entry says what happened if they differ, and the remedy.
DISAGREEMENTS = {
    "function": ("call different functions", "call the same on all of them"),
    "device": ("hold rows on unlike kinds of devices", "move them all to the same kind"),
    "features": ("hold rows of unlike widths", "pass the same number of features on all of them"),
    "dtype": ("compute in unlike dtypes", "use one dtype and one autocast setting on all of them"),
    "gradients": ("disagree on which inputs need a gradient", "train or freeze the same modules on all of them"),
}
LONGEST = 2048  # bytes in which a rank describes its call to the others
WORDS = 100  # letters that a setting gets of them, so that some twenty fit
CONNECTED_WITHIN = timedelta(seconds=60)  # a host that gloo cannot reach by then is given up


def agree(group: dist.ProcessGroup, rows: int, device: torch.device, call: dict[str, object]) -> tuple[int, ...]:
    """Return the rows of each rank if all ranks make this ``call``; raises a ValueError on every rank if they do not.

    ``call`` maps names to settings, among them the "function". One setting may be a tensor with one element. If that
    lies on a device and its value differs between ranks, the call raises where it is the first with this setting, and
    otherwise a later one does.
    """
    line = _line(group, device)
    name, value = next(((n, setting) for n, setting in call.items() if isinstance(setting, Tensor)), ("", None))
    name = f"{call['function']}: {name}"
    late = value is not None and line.is_host and waits_for(value.device) and (name in line.seen or is_captured(value))
    when = "a tensor, compared later" if late else "a tensor"
    known = {n: when if isinstance(setting, Tensor) else setting for n, setting in call.items()}
    # Every call sends the same number of numbers, so that ranks that call different functions still notice it.
    numbers = line.late.numbers(bool(line.late.under_way) and is_captured(torch.empty(0, device=device)))
    mine = torch.tensor([rows, zlib.crc32(repr(known).encode()), 0, *numbers], device=line.device)
    if value is not None and not late:
        mine[2:3] = _bits(value)
    sizes, calls, values, landed, sums = zip(*line.gather(mine, group).view(-1, len(mine)).tolist(), strict=True)
    earlier = line.late.heard(landed, sums)
    if earlier is not None:
        line.late = Late()  # all ranks begin anew
        raise ValueError(_difference_of_values(earlier, line, group))
    if len(set(calls)) > 1 or len(set(values)) > 1:
        raise ValueError(_difference_of_calls(call, line, group))
    if value is not None:
        line.seen.add(name)
        if late:
            line.late.send(value, name)
    return sizes


# torch.compile leaves this call out of its graphs: what ranks say to each other is new at every call.
agree._torchdynamo_disable = True  # type: ignore[attr-defined]


def waits_for(device: torch.device) -> bool:
    """Say if the host waits when it reads a number on ``device``."""
    return device.type != "cpu"


def all_gather(output: Tensor, value: Tensor, group: dist.ProcessGroup | None) -> None:
    # torch 2.13 renames the tensor collectives and warns about the old names; torch 2.11 has only those.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, value, group=group)


# --- values that lie on devices -------------------------------------------------------------------------------------


class Copied(NamedTuple):
    """Hold the bits of a value on their way to the host, and the event after which they are there."""

    bits: Tensor
    event: Any  # None if they are there already
    is_float: bool

    def is_here(self) -> bool:
        return self.event is None or self.event.query()


class Landed(NamedTuple):
    """Hold what a rank says of a value that its host has: whose it is, and its bits."""

    name: str
    bits: int
    is_float: bool

    def __str__(self) -> str:
        value = torch.tensor(self.bits)
        return f"tensor({(value.view(torch.float64) if self.is_float else value).item()})"


@dataclass
class Late:
    """Compare values after the call that they belong to, once every host has them.

    The ranks of a group number these values alike. Each tells the others how many have ``landed`` on its host, and a
    checksum over the first ``ready`` of them. ``ready`` is the least that any rank had landed at the exchange before,
    so all have these, and all see the same checksums in the same call. No value escapes, since a checksum covers all
    before it.
    """

    under_way: deque[tuple[Copied, str]] = field(default_factory=deque)
    landed: int = 0
    ready: int = 0
    checked: int = 0
    sums: dict[int, int] = field(default_factory=lambda: {0: 0})  # by number, from `ready` on
    values: dict[int, Landed] = field(default_factory=dict)  # by number, after `checked`

    def send(self, value: Tensor, name: str) -> None:
        self.under_way.append((copied(value), name))

    def numbers(self, captured: bool = False) -> tuple[int, int]:
        """Return the two numbers that the others hear at the next exchange.

        Nothing lands while a CUDA graph is captured, since the driver then refuses to say if an event has happened.
        """
        while not captured and self.under_way and self.under_way[0][0].is_here():
            copy, name = self.under_way.popleft()
            found = Landed(name, int(copy.bits.item()), copy.is_float)
            before = self.sums[self.landed]
            self.landed += 1
            self.values[self.landed] = found
            self.sums[self.landed] = zlib.crc32(found.bits.to_bytes(8, "little", signed=True), before)
        return self.landed, self.sums[self.ready]

    def heard(self, landed: tuple[int, ...], sums: tuple[int, ...]) -> list[Landed] | None:
        """Take in what every rank said. Return the values among which one differs, or None; all ranks return alike."""
        among = [self.values.pop(number) for number in range(self.checked + 1, self.ready + 1)]
        if len(set(sums)) > 1:
            return among
        self.checked, self.ready = self.ready, min(landed)
        for number in range(self.checked, self.ready):
            del self.sums[number]
        return None


def copied(value: Tensor) -> Copied:
    """Begin to copy the bits of a value to the host. Values in a CUDA graph stay there, and count as zero."""
    is_float, device = value.is_floating_point(), value.device
    if is_captured(value):
        return Copied(torch.zeros(1, dtype=torch.int64), None, is_float)
    if device.type != "cuda":  # we know no other device that is sure to copy without waiting
        return Copied(_bits(value).cpu(), None, is_float)
    with torch.cuda.device(device):
        bits = torch.empty(1, dtype=torch.int64, pin_memory=True).copy_(_bits(value), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
    return Copied(bits, event, is_float)


def _bits(value: Tensor) -> Tensor:
    value = value.detach().reshape(1)
    return value.double().view(torch.int64) if value.is_floating_point() else value.long()


# --- how ranks hear of each other -----------------------------------------------------------------------------------


@dataclass
class Line:
    """Connect the ranks of a group: ``gather`` takes equally many numbers of each, on ``device``, to every one."""

    gather: Callable[[Tensor, dist.ProcessGroup], Tensor]
    device: torch.device
    is_host: bool  # no device takes part
    late: Late = field(default_factory=Late)
    seen: set[str] = field(default_factory=set)  # settings whose values have been compared once


# A group that was destroyed and made anew is another key. No line holds its group, so that it ends with the group.
_lines: WeakKeyDictionary[dist.ProcessGroup, Line] = WeakKeyDictionary()


def _line(group: dist.ProcessGroup, device: torch.device) -> Line:
    line = _lines.get(group)
    if line is None:
        line = _connected(group, device)
        # A group of "nccl" refuses rows of the host, and must still connect once they are on a device.
        if waits_for(device) or speaks_host(group):
            _lines[group] = line
    return line


def _connected(group: dist.ProcessGroup, device: torch.device) -> Line:
    """Find the hosts' own line in a group, or make one. Without one the numbers travel as the rows do."""
    host = torch.device("cpu")
    if not waits_for(device) or speaks_host(group):
        return Line(_gathered, host, is_host=True)
    if is_captured(torch.empty(0, device=device)):
        raise RuntimeError(
            "group: its ranks meet for the first time while a CUDA graph is captured; "
            "call once with this group before the capture."
        )
    gloo = _gloo(group, device)
    if gloo is None:
        return Line(_gathered, device, is_host=False)
    return Line(lambda mine, _: _gathered_by(gloo, mine), host, is_host=True)


def speaks_host(group: dist.ProcessGroup) -> bool:
    """Say if a group has a backend for host memory, as "cpu:gloo,cuda:nccl" has and "nccl" has not."""
    return any(part.startswith("cpu:") for part in dist.get_backend_config(group).split(","))


def _gathered(mine: Tensor, group: dist.ProcessGroup) -> Tensor:
    everyone = mine.new_empty(dist.get_world_size(group) * len(mine))
    all_gather(everyone, mine, group)
    return everyone


def _gathered_by(gloo: Any, mine: Tensor) -> Tensor:
    everyone = mine.new_empty(gloo.size() * len(mine))
    gloo.allgather([list(everyone.split(len(mine)))], [mine]).wait()
    return everyone


def _gloo(group: dist.ProcessGroup, device: torch.device) -> Any:
    """Connect the hosts of a group that speaks to devices alone; None if some host cannot be reached.

    All ranks find out together if it worked. We do not call dist.new_group: all processes would have to, or it would
    take a name from the number of groups that a process is in, which differs between ranks.
    """
    drawn = torch.tensor(list(uuid.uuid4().bytes), dtype=torch.uint8, device=device)
    dist.broadcast(drawn, group=group, group_src=0)  # a name that no group had before, one that was destroyed included
    gloo, reason = None, ""
    try:
        store = dist.PrefixStore(
            f"sslkernels/{bytes(drawn.tolist()).hex()}", dist.distributed_c10d._get_default_store()
        )
        rank, ranks = dist.get_rank(group), dist.get_world_size(group)
        timeout = _timeout(group, device)
        # A host that fails at once waits for the others in the group's own collective, which must not give up first.
        gloo = dist.ProcessGroupGloo(store, rank, ranks, min(CONNECTED_WITHIN, timeout / 2))
        gloo._set_default_timeout(timeout)
    except Exception as error:  # whatever failed here, the others must hear of it
        gloo, reason = None, f" ({' '.join(str(error).split())[:200]})"
    worked = torch.tensor([gloo is not None], dtype=torch.int32, device=device)
    dist.all_reduce(worked, dist.ReduceOp.MIN, group=group)
    if worked.item():
        return gloo
    warnings.warn(
        f"sslkernels: the hosts of a group could not connect through gloo{reason}, so every call with this group waits "
        'for the device; pass init_process_group a backend such as "cpu:gloo,cuda:nccl", or set GLOO_SOCKET_IFNAME.',
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def _timeout(group: dist.ProcessGroup, device: torch.device) -> timedelta:
    return group._get_backend(device).options._timeout


# --- what is said when ranks differ ---------------------------------------------------------------------------------


def _difference_of_calls(call: dict[str, object], line: Line, group: dist.ProcessGroup) -> str:
    """Say how the first two unlike ranks differ, in a sentence that all ranks read; costs a second exchange."""
    said = {n: f"tensor({value.item()})" if isinstance(value, Tensor) else str(value) for n, value in call.items()}
    first, *others = _told({name: words[:WORDS] for name, words in said.items()}, line, group)
    for name, came in first.items():
        for place, other in enumerate(others, 1):
            if other[name] != came:
                unlike = _unlike(group, place, came, other[name])
                if name not in DISAGREEMENTS:
                    return f"{call['function']}: {name} is {unlike}; pass the same on every rank."
                what, mended = DISAGREEMENTS[name]
                return f"group: ranks {what}, {unlike}; {mended}."
    return f"{call['function']}: ranks differ in a setting that reads alike; pass the same on every rank."


def _difference_of_values(values: Iterable[Landed], line: Line, group: dist.ProcessGroup) -> str:
    """Say which value of an earlier call differed; costs a second exchange."""
    said = [(value.name[:WORDS], str(value)) for value in values]
    while len(json.dumps(said)) > LONGEST:
        said.pop()
    first, *others = _told(said, line, group)
    for number, (name, came) in enumerate(first):
        for place, other in enumerate(others, 1):
            if other[number][1] != came:
                unlike = _unlike(group, place, came, other[number][1])
                return f"{name} of an earlier call was {unlike}; pass the same on every rank."
    return "group: ranks passed unlike values in an earlier call; pass the same on every rank."


def _unlike(group: dist.ProcessGroup, place: int, came: str, other: str) -> str:
    first, second = dist.get_global_rank(group, 0), dist.get_global_rank(group, place)
    return f"{came} on rank {first} and {other} on rank {second}"


def _told(said: Any, line: Line, group: dist.ProcessGroup) -> list[Any]:
    """Tell every rank what this one says, and return what all of them say."""
    text = json.dumps(said).encode()[:LONGEST].ljust(LONGEST)
    everyone = line.gather(torch.tensor(list(text), dtype=torch.uint8, device=line.device), group)
    return [json.loads(bytes(text)) for text in everyone.view(-1, LONGEST).tolist()]
