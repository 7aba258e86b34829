# SPDX-License-Identifier: Apache-2.0
"""Count and gather the rows of other ranks, and send gradients back.

``group`` is None (never communicates), "world" (every rank; nothing to do without a process group or with one
process) or a ProcessGroup. Ranks may hold different numbers of rows: they are padded for the collective only.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslkernels.arguments import check_flag

GroupLike: TypeAlias = "dist.ProcessGroup | Literal['world'] | None"

# Ranks must agree on these, whatever function they call. Each entry says what happened if they differ, and the remedy.
DISAGREEMENTS = {
    "function": ("call different functions", "call the same on all of them"),
    "features": ("hold rows of unlike widths", "pass the same number of features on all of them"),
    "dtype": ("compute in unlike dtypes", "use one dtype and one autocast setting on all of them"),
    "gradients": ("disagree on which inputs need a gradient", "train or freeze the same modules on all of them"),
}
LONGEST = 2048  # bytes in which a rank describes its call to the others


@dataclass(frozen=True)
class Shard:
    """Hold this rank's place among the rows of a group. One process is a group of one, `Shard.alone`."""

    group: dist.ProcessGroup | None
    sizes: tuple[int, ...]  # rows of each rank; empty for one process, because a compiled graph would fix their number
    rank: int
    alone: ClassVar[Shard]

    @property
    def ranks(self) -> int:
        return len(self.sizes) or 1

    @property
    def start(self) -> int:
        """Count the rows of the ranks before this one."""
        return sum(self.sizes[: self.rank])

    def total(self, rows: int) -> int:
        """Count the rows of all ranks, given those of this one."""
        return sum(self.sizes) if self.sizes else rows

    def with_views(self, views: int) -> Shard:
        """Count each row as so many, one of each view."""
        return Shard(self.group, tuple(views * size for size in self.sizes), self.rank)


Shard.alone = Shard(None, (), 0)


def shard_of(group: GroupLike, function: str, x: Tensor, /, *others: Tensor, **settings: object) -> Shard:
    """Find the place of ``x (N, D)`` in ``group``, and check that ranks agree, in one small collective.

    Without a second process nothing is sent. Every rank must agree on ``function``, its ``settings``, D, dtype, and
    which of ``x`` and ``others`` need a gradient: gradients communicate too, and a rank that skipped it would leave the
    others waiting. One of the settings may be a tensor with one element, and one the ``dtype`` in which rows are
    multiplied, if that is not theirs. A rank may hold no row. A rank that raises before this call leaves the others
    waiting until the group's timeout.
    """
    resolved = _resolve(group)
    if resolved is None:
        return Shard.alone
    call = {
        "function": function,
        "dtype": named(x.dtype),
        **settings,
        "features": x.shape[1],
        "gradients": [tensor.requires_grad and torch.is_grad_enabled() for tensor in (x, *others)],
    }
    known = {name: "a tensor" if isinstance(value, Tensor) else value for name, value in call.items()}
    # Every call sends the same number of numbers, so that ranks that call different functions still notice it.
    mine = torch.tensor([x.shape[0], zlib.crc32(repr(known).encode()), 0], device=x.device)
    for value in settings.values():
        if isinstance(value, Tensor):  # its value is compared on its device, so that the host need not wait for it here
            mine[2:] = _bits(value)
    everyone = mine.new_empty(dist.get_world_size(resolved) * len(mine))
    _all_gather(everyone, mine, resolved)
    sizes, calls, values = zip(*everyone.view(-1, len(mine)).tolist(), strict=True)
    if len(set(calls)) > 1 or len(set(values)) > 1:
        raise ValueError(_difference(call, x.device, resolved))
    return Shard(resolved, sizes, dist.get_rank(resolved))


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bits(value: Tensor) -> Tensor:
    value = value.detach().reshape(1)
    return value.double().view(torch.int64) if value.is_floating_point() else value


def _difference(call: dict[str, object], device: torch.device, group: dist.ProcessGroup) -> str:
    """Say how the first two unlike ranks differ, in a sentence that all ranks read; costs a second collective."""
    said = {n: f"tensor({value.item()})" if isinstance(value, Tensor) else str(value) for n, value in call.items()}
    said = {name: words[:100] for name, words in said.items()}  # so short, some twenty settings fit
    text = json.dumps(said).encode()[:LONGEST].ljust(LONGEST)
    mine = torch.tensor(list(text), dtype=torch.uint8, device=device)
    everyone = mine.new_empty(dist.get_world_size(group) * LONGEST)
    _all_gather(everyone, mine, group)
    first, *others = (json.loads(bytes(text)) for text in everyone.view(-1, LONGEST).tolist())
    for name, came in first.items():
        for place, other in enumerate(others, 1):
            if other[name] != came:
                ranks = dist.get_global_rank(group, 0), dist.get_global_rank(group, place)
                unlike = f"{came} on rank {ranks[0]} and {other[name]} on rank {ranks[1]}"
                if name not in DISAGREEMENTS:
                    return f"{call['function']}: {name} is {unlike}; pass the same on every rank."
                what, mended = DISAGREEMENTS[name]
                return f"group: ranks {what}, {unlike}; {mended}."
    return f"{call['function']}: ranks differ in a setting that reads alike; pass the same on every rank."


def gather_rows(x: Tensor, shard: Shard) -> Tensor:
    """Gather the rows of every rank in rank order; the backward sums the ranks' gradients (a reduce-scatter)."""
    if shard.ranks == 1:
        return x
    return _GatherRows.apply(x, shard)


def all_rows(x: Tensor, shard: Shard) -> Tensor:
    """Gather the rows of every rank in rank order, without a gradient."""
    if shard.ranks == 1:
        return x.detach()
    longest = max(shard.sizes)
    padded = _padded(x.detach().contiguous(), longest)
    gathered = x.new_empty((shard.ranks * longest, *x.shape[1:]))
    _all_gather(gathered, padded, shard.group)
    if len(set(shard.sizes)) == 1:
        return gathered
    return torch.cat([part[:size] for part, size in zip(gathered.split(longest), shard.sizes, strict=True)])


def shuffle_rows(x: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
    """Shuffle rows among ranks: return as many as this rank holds, and the order, which `unshuffle_rows` needs.

    ``x (N, ...)`` gets no gradient. The order is drawn from the random state of the group's first rank.
    """
    order = broadcast(torch.randperm(shard.total(len(x)), device=x.device), shard)
    return all_rows(x, shard)[order[shard.start : shard.start + len(x)]], order


def unshuffle_rows(x: Tensor, order: Tensor, shard: Shard) -> Tensor:
    """Bring this rank's rows back from the ranks to which `shuffle_rows` sent them, without a gradient."""
    return all_rows(x, shard)[order.argsort()[shard.start : shard.start + len(x)]]


def broadcast(x: Tensor, shard: Shard) -> Tensor:
    """Return the ``x`` of the group's first rank, without a gradient."""
    if shard.ranks == 1:
        return x.detach()
    x = x.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(x, group=shard.group, group_src=0)
    return x


def summed(x: Tensor, shard: Shard) -> Tensor:
    """Sum ``x`` over ranks, without a gradient."""
    if shard.ranks == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x, group=shard.group)
    return x


def summed_rows(x: Tensor, shard: Shard) -> Tensor:
    """Sum rows over ranks, each of which has those of all ranks, and return this rank's own, without a gradient."""
    if shard.ranks == 1:
        return x.detach()
    longest = max(shard.sizes)
    parts = [_padded(part, longest) for part in x.detach().contiguous().split(shard.sizes)]
    received = x.new_empty((longest, *x.shape[1:]))
    _reduce_scatter(received, torch.cat(parts), shard.group)
    return received[: shard.sizes[shard.rank]]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return all_rows(x, shard)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return summed_rows(grad, ctx.shard), None


def check_group(group: GroupLike) -> GroupLike:
    """Check that ``group`` is one of the accepted kinds, and return it unchanged: it is resolved when it is used."""
    _resolve(group)
    return group


def check_gathered(function: str, gather_distributed: object) -> bool:
    """Check that rows of other ranks can be gathered, if that is asked for."""
    gathered = check_flag(function, "gather_distributed", gather_distributed)
    if gathered and not dist.is_available():
        raise ValueError(
            f"{function}: gather_distributed is True and this torch has no torch.distributed; "
            "pass gather_distributed=False, or install a torch that has it."
        )
    return gathered


def _resolve(group: GroupLike) -> dist.ProcessGroup | None:
    if group is None:
        return None
    if isinstance(group, str):
        if group != "world":
            raise ValueError(f"group is {group!r}; accepted are None, 'world' and a torch.distributed ProcessGroup.")
        if not (dist.is_available() and dist.is_initialized()):
            return None
        group = dist.group.WORLD
    elif not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"group is a {type(group).__name__}; accepted are None, 'world' and a ProcessGroup.")
    return group if dist.get_world_size(group) > 1 else None


def _padded(x: Tensor, rows: int) -> Tensor:
    return x if x.shape[0] == rows else torch.cat([x, x.new_zeros((rows - x.shape[0], *x.shape[1:]))])


def _all_gather(output: Tensor, value: Tensor, group: dist.ProcessGroup | None) -> None:
    # torch 2.13 renames the tensor collectives and warns about the old names; torch 2.11 has only those.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(output, value, group=group)


def _reduce_scatter(output: Tensor, value: Tensor, group: dist.ProcessGroup | None) -> None:
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(output, value, group=group)
