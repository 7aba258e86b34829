# SPDX-License-Identifier: Apache-2.0
"""Count and gather the rows of other ranks, and send gradients back.

``group`` is None (never communicates), "world" (every rank; nothing to do without a process group or with one
process) or a ProcessGroup. Ranks may hold different numbers of rows: they are padded for the collective only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslkernels.agreement import agree, all_gather
from sslkernels.arguments import check_flag

GroupLike: TypeAlias = "dist.ProcessGroup | Literal['world'] | None"


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

    def counts(self, device: torch.device) -> Tensor:
        """Return the rows of each rank as float64 on ``device``; they are written there, not copied, for which a host
        would wait."""
        sizes = self.sizes[:1] if len(set(self.sizes)) == 1 else self.sizes
        each = [torch.full((1,), size, dtype=torch.float64, device=device) for size in sizes]
        return each[0].expand(self.ranks) if len(each) == 1 else torch.cat(each)

    def with_views(self, views: int) -> Shard:
        """Count each row as so many, one of each view."""
        return Shard(self.group, tuple(views * size for size in self.sizes), self.rank)


Shard.alone = Shard(None, (), 0)


def shard_of(group: GroupLike, function: str, x: Tensor, /, *others: Tensor, **settings: object) -> Shard:
    """Find the place of ``x (N, D)`` in ``group``, and check that ranks agree, in one small exchange between hosts.

    Without a second process nothing is sent. Every rank must agree on ``function``, its ``settings``, D, dtype, the
    kind of device, and which of ``x`` and ``others`` need a gradient: gradients communicate too, and a rank that
    skipped it would leave the others waiting. One of the settings may be a tensor with one element, and one the
    ``dtype`` in which rows are multiplied, if that is not theirs. A rank may hold no row. A rank that raises before
    this call leaves the others waiting until the group's timeout. `agree` says when the value of a tensor is compared.
    """
    resolved = _resolve(group)
    if resolved is None:
        return Shard.alone
    call = {
        "function": function,
        "device": x.device.type,
        "dtype": named(x.dtype),
        **settings,
        "features": x.shape[1],
        "gradients": [tensor.requires_grad and torch.is_grad_enabled() for tensor in (x, *others)],
    }
    return Shard(resolved, agree(resolved, x.shape[0], x.device, call), dist.get_rank(resolved))


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
    all_gather(gathered, padded, shard.group)
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


def highest(x: Tensor, shard: Shard) -> Tensor:
    """Find the largest ``x`` of any rank, entry by entry, without a gradient."""
    if shard.ranks == 1:
        return x.detach()
    x = x.detach().clone()
    dist.all_reduce(x, dist.ReduceOp.MAX, group=shard.group)
    return x


def logsumexp_over_ranks(x: Tensor, shard: Shard) -> Tensor:
    """Compute the log-sum-exp over ranks of ``x``, entry by entry, without a gradient: -inf where all have -inf."""
    if shard.ranks == 1:
        return x.detach()
    largest = highest(x, shard)
    largest = torch.where(largest.isfinite(), largest, 0)  # an infinity less itself is no number
    return summed((x - largest).exp(), shard).log() + largest


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


def check_gathered(function: str, gather_distributed: object, name: str = "gather_distributed") -> bool:
    """Check that rows of other ranks can be gathered, if that is asked for."""
    gathered = check_flag(function, name, gather_distributed)
    if gathered and not dist.is_available():
        raise ValueError(
            f"{function}: {name} is True and this torch has no torch.distributed; "
            f"pass {name}=False, or install a torch that has it."
        )
    return gathered


def group_of(function: str, world_size: int) -> GroupLike:
    """Return the group that a ``world_size`` stands for, as open_clip's losses take it: every rank, or none."""
    if world_size == 1:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"{function}: world_size is {world_size} and no process group is initialised; "
            "call torch.distributed.init_process_group first, or pass world_size=1."
        )
    return "world"


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


def _reduce_scatter(output: Tensor, value: Tensor, group: dist.ProcessGroup | None) -> None:
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter(output, value, group=group)
