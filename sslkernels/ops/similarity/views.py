# SPDX-License-Identifier: Apache-2.0
"""Contrast two views with all other rows, for losses that are made otherwise than `contrast` makes its own.

A form says how an anchor's loss follows from the log-sum-exps of its negatives and the logit of its positive. A mean or
a sum is one node; losses one by one are made of the primitives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sslkernels.distributed import Shard, all_rows, gather_rows
from sslkernels.ops.dtypes import stacked, widened
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.rows.schema import dot_forward, unit_forward
from sslkernels.ops.similarity import checked_logsumexp
from sslkernels.ops.similarity.composed import everyone
from sslkernels.ops.similarity.schema import SIMILARITY, Moved, Pairs, Sums, backward, finish, forward
from sslkernels.ops.softplus import softplus


class Seen(NamedTuple):
    """Hold what the losses of 2N anchors, first those of one view, are made of."""

    lses: tuple[Tensor, ...]  # (2N,) log-sum-exps of the negatives' logits times each of the form's multiples
    logits: Tensor  # (2N,) of the positives
    weights: Tensor | None  # (2N,) of the positives, where the form has any
    scale: Tensor  # ()
    total: int  # pairs of all ranks


class Slopes(NamedTuple):
    """Hold the derivatives of the losses."""

    lses: tuple[Tensor, ...]
    logits: Tensor
    scale: Tensor | None  # beside what goes through the others


class Form(Protocol):
    """Say how losses are made. Its multiples scale the logits once more before they are summed."""

    @property
    def multiples(self) -> tuple[float, ...]: ...
    def weights(self, products: Tensor, shard: Shard) -> Tensor | None: ...
    def losses(self, seen: Seen) -> Tensor: ...
    def slopes(self, seen: Seen) -> Slopes: ...


@dataclass(frozen=True)
class Decoupled:
    """Leave the positive out of the sum: ``loss = lse - w * positive``.

    Without ``sigma`` w is 1. With it, ``w_i = 2 - N * softmax_i(cosine_i / sigma)`` over the N pairs of all ranks, and
    has no gradient.
    """

    sigma: float | None = None
    multiples: tuple[float, ...] = (1.0,)

    def weights(self, products: Tensor, shard: Shard) -> Tensor | None:
        if self.sigma is None:
            return None
        near = products.detach() / self.sigma
        everyones = all_rows(near, shard)
        return 2 - shard.total(len(near)) * torch.exp(near - everyones.logsumexp(0))

    def losses(self, seen: Seen) -> Tensor:
        return seen.lses[0] - (seen.logits if seen.weights is None else seen.weights * seen.logits)

    def slopes(self, seen: Seen) -> Slopes:
        (lse,) = seen.lses
        one = torch.ones_like(lse)
        return Slopes((one,), -(one if seen.weights is None else seen.weights), None)


@dataclass(frozen=True)
class Debiased:
    """Correct the negatives for those of the anchor's own class, and weigh the hard ones.

    Of M negatives with logits x the sum is M * exp(L) with L = lse((1 + hardness) x) - lse(hardness x), and

        log g = log M + max(log((e^L - prior * e^p) / (1 - prior)), -scale),    loss = softplus(log g - p)
    """

    prior: float
    hardness: float

    @property
    def multiples(self) -> tuple[float, ...]:
        return (1.0,) if self.hardness == 0 else (1 + self.hardness, self.hardness)

    def weights(self, products: Tensor, shard: Shard) -> Tensor | None:
        return None

    def _parts(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return log g, the share that e^L keeps, and whether it is above its least value."""
        count = torch.full_like(seen.scale, float(2 * seen.total - 2)).log()
        lse = seen.lses[0] - (count if len(seen.lses) == 1 else seen.lses[1])
        # We keep the exponent below 0, since beyond it may overflow, whose gradient of 0 would be NaN.
        excess = seen.logits - lse + torch.full_like(seen.scale, self.prior).log()
        kept = ~(excess >= 0)  # NaN stays
        share = -torch.expm1(excess.masked_fill(~kept, -torch.inf))
        debiased = lse + share.log() - torch.full_like(seen.scale, 1 - self.prior).log()
        kept = kept & ~(debiased < -seen.scale)
        return count + torch.where(kept, debiased, -seen.scale), share, kept

    def losses(self, seen: Seen) -> Tensor:
        return softplus(self._parts(seen)[0] - seen.logits)

    def slopes(self, seen: Seen) -> Slopes:
        negatives, share, kept = self._parts(seen)
        slope = torch.sigmoid(negatives - seen.logits)
        of_lse = torch.where(kept, slope / share, 0.0)
        of_lses = (of_lse,) if len(seen.lses) == 1 else (of_lse, -of_lse)
        of_logits = torch.where(kept, slope - of_lse, 0.0) - slope
        return Slopes(of_lses, of_logits, torch.where(kept, 0.0, -slope))


class _Asked(NamedTuple):
    form: Any
    unit: bool
    dtype: torch.dtype
    mean: bool
    shard: Shard
    backend: str


def contrast_views(
    form: Form,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    unit: bool,
    dtype: torch.dtype,
    reduction: str,
    shard: Shard,
    backend: str | None,
) -> Tensor:
    """Reduce the losses of 2N anchors as `contrast` does; row i of x matches row i of y."""
    if reduction == "none":
        return _one_by_one(form, x, y, scale, unit, shard, backend)
    chosen = SIMILARITY.choose(x.device, x.dtype, backend)
    return in_one_call(_computed, _Asked(form, unit, dtype, reduction == "mean", shard, chosen), x, y, scale)


def _computed(asked: _Asked, needs: tuple[bool, ...], x: Tensor, y: Tensor, scale: Tensor) -> tuple[Any, ...]:
    n, form, shard, backend = len(x), asked.form, asked.shard, asked.backend
    rows, norms = unit_forward(x, y, asked.dtype, backend) if asked.unit else (torch.cat((x, y)), None)
    views = shard.with_views(2)
    keys = None if shard.ranks == 1 else all_rows(rows, views)
    pairs = [Pairs.of_views(rows, keys, scale * multiple, views.start, 2) for multiple in form.multiples]
    lses = tuple(forward(each, False, False, backend)[0] for each in pairs)
    products = dot_forward(rows[:n], rows[n:], 0, backend)
    seen = _seen(form, lses, products, scale, shard)
    share = shard.ranks / (2 * shard.total(n)) if asked.mean else float(shard.ranks)
    value = (share * form.losses(seen)).sum()
    if not any(needs):
        return value, None, None, None
    slopes = form.slopes(seen)
    moved = torch.zeros_like(widened(rows))
    for each, lse, slope, multiple in zip(pairs, lses, slopes.lses, form.multiples, strict=True):
        weights = share * slope
        by, _, _ = backward(each, Sums(lse, weights, *everyone(lse, weights, views)), True, False, False, backend)
        moved = moved + multiple * by
    pull = -share * (slopes.logits[:n] + slopes.logits[n:])
    x_norms, y_norms = (None, None) if norms is None else (norms[:n], norms[n:])
    ends = Moved(rows[:n], moved[:n], x_norms, rows[n:], moved[n:], y_norms, scale)
    dx, dy, along = finish(ends, pull, needs[0], needs[1], needs[2], backend)
    if needs[2]:
        along = along - pull.dot(products)
        if slopes.scale is not None:
            along = along + share * slopes.scale.sum()
    return value, dx, dy, along


def _seen(form: Form, lses: tuple[Tensor, ...], products: Tensor, scale: Tensor, shard: Shard) -> Seen:
    logits, weights = scale * products, form.weights(products, shard)
    both = torch.cat((logits, logits)), None if weights is None else torch.cat((weights, weights))
    return Seen(lses, *both, scale, shard.total(len(products)))


def _one_by_one(
    form: Form, x: Tensor, y: Tensor, scale: Tensor, unit: bool, shard: Shard, backend: str | None
) -> Tensor:
    n, views = len(x), shard.with_views(2)
    rows = unit_rows(x, y, backend=backend) if unit else stacked(x, y)
    keys = None if shard.ranks == 1 else gather_rows(rows, views)
    lses = tuple(
        checked_logsumexp(Pairs.of_views(rows, keys, scale * multiple, views.start, 2), False, backend)
        for multiple in form.multiples
    )
    return form.losses(_seen(form, lses, row_dot(rows[:n], rows[n:], backend=backend), scale, shard))
