# SPDX-License-Identifier: Apache-2.0
"""Pull rows of one class together (SupCon), as one differentiable number or one by one.

    out   loss_i = lse_i(all but i) - mean_p s_ip      p over the other rows of i's class
    in    loss_i = softplus(lse_i(other classes) - lse_i(its own class, but i)) + log |P_i|

The sum over p of s_ip is a product with the sum of the class's rows. The gradient of "out" is the difference of two
sums that may nearly cancel, so rows are multiplied in float32 at least.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard, all_rows, gather_rows
from sslkernels.ops.dtypes import widened
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.rows.schema import dot_forward, unit_forward
from sslkernels.ops.similarity import checked_logsumexp
from sslkernels.ops.similarity.anchors import losses_of
from sslkernels.ops.similarity.composed import everyone
from sslkernels.ops.similarity.schema import SIMILARITY, Moved, Pairs, Sums, backward, finish, forward


class _Asked(NamedTuple):
    form: str
    unit: bool
    skip: bool
    mean: bool
    shard: Shard
    backend: str


def contrast_classes(
    z: Tensor,
    labels: Tensor,
    scale: Tensor,
    form: str,
    unit: bool,
    skip: bool,
    reduction: str,
    shard: Shard,
    backend: str | None,
) -> Tensor:
    """Reduce the losses of rows with labels; a row without another of its class has loss 0.

    With ``skip`` a mean does not count these rows.
    """
    chosen = SIMILARITY.choose(z.device, z.dtype, backend)
    if reduction == "none":
        return _one_by_one(z, labels, scale, form, unit, shard, chosen)
    asked = _Asked(form, unit, skip, reduction == "mean", shard, chosen)
    return in_one_call(_computed, asked, z, labels, scale)


def _computed(asked: _Asked, needs: tuple[bool, ...], z: Tensor, labels: Tensor, scale: Tensor) -> tuple[Any, ...]:
    shard, backend, n = asked.shard, asked.backend, len(z)
    own = slice(shard.start, shard.start + n)
    rows, norms = widened(z), None
    if asked.unit:
        rows, norms = unit_forward(rows, None, rows.dtype, backend)
    keys, everyones = (rows, labels) if shard.ranks == 1 else (all_rows(rows, shard), all_rows(labels, shard))
    others = class_sums(torch.ones_like(keys[:, :1]), everyones)[:, 0] - 1  # of each row's class
    paired, mine = others > 0, others[own]
    counted = paired.sum() if asked.skip else torch.full_like(others, 1.0).sum()
    share = shard.ranks / counted.clamp_min(1).to(scale.dtype) if asked.mean else torch.full_like(scale, shard.ranks)
    weights = torch.where(mine > 0, share, 0.0)
    sides = _sides(asked.form, rows, keys if shard.ranks > 1 else None, labels, everyones, scale, shard)
    lses = [forward(pairs, False, False, backend)[0] for pairs in sides]
    if asked.form == "out":
        sums = class_sums(keys, everyones)[own]
        logits = scale * (dot_forward(rows, sums, 0, backend) - dot_forward(rows, rows, 0, backend))
        losses = lses[0] - logits / mine.clamp_min(1)
    else:
        gap = lses[0] - lses[1]
        losses = losses_of(*lses) + mine.clamp_min(1).log()
    value = (weights * torch.where(mine > 0, losses, 0.0)).sum()
    if not any(needs):
        return value, None, None, None
    slopes = [weights]
    if asked.form == "in":
        slopes[0] = torch.where(mine > 0, weights * torch.sigmoid(gap), 0.0)
        slopes.append(-slopes[0])
    moved = torch.zeros_like(rows)
    for pairs, lse, slope in zip(sides, lses, slopes, strict=True):
        by, _, _ = backward(pairs, Sums(lse, slope, *everyone(lse, slope, shard)), True, False, False, backend)
        moved = moved + by
    if asked.form == "out":
        pull = weights / mine.clamp_min(1)
        pulls = pull if shard.ranks == 1 else all_rows(pull, shard)
        pulled_by = class_sums(pulls[:, None] * keys, everyones)[own]
        moved = moved - pull[:, None] * (sums - rows) - (pulled_by - pull[:, None] * rows)
    dz, _, along = finish(Moved(rows, moved, norms, None, None, None, scale), None, needs[0], False, needs[2], backend)
    # Each pair moves both of its rows.
    return value, dz, None, along / 2 if needs[2] else None


def _sides(
    form: str, rows: Tensor, keys: Tensor | None, labels: Tensor, everyones: Tensor, scale: Tensor, shard: Shard
) -> list[Pairs]:
    """Return the pairs whose log-sum-exps the losses are made of."""
    pairs = Pairs.of_views(rows, keys, scale, shard.start, 1)
    if form == "out":
        return [pairs]
    by_label = {"row_labels": labels, "col_labels": None if keys is None else everyones}
    return [pairs._replace(alike=alike, **by_label) for alike in (True, False)]


def class_sums(rows: Tensor, labels: Tensor) -> Tensor:
    """Sum the rows of each class, and return for each row the sum of its class."""
    order = labels.argsort(stable=True)
    sorted_labels = labels[order]
    begins = torch.ones_like(labels, dtype=torch.bool)
    begins[1:] = sorted_labels[1:] != sorted_labels[:-1]
    places = begins.cumsum(0) - 1
    sums = torch.zeros_like(rows).index_add(0, places, rows[order])
    return torch.empty_like(rows).index_copy(0, order, sums[places])


class _ClassSums(torch.autograd.Function):
    """`class_sums` is a product with a symmetric matrix, so its gradient is the same product."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(labels)
        return class_sums(rows, labels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _ClassSums.apply(grad, ctx.saved_tensors[0]), None


def _one_by_one(z: Tensor, labels: Tensor, scale: Tensor, form: str, unit: bool, shard: Shard, backend: str) -> Tensor:
    rows = widened(z)
    rows = unit_rows(rows, backend=backend) if unit else rows
    keys, everyones = rows, labels
    if shard.ranks > 1:
        keys, everyones = gather_rows(rows, shard), all_rows(labels, shard)
    own = slice(shard.start, shard.start + len(z))
    mine = class_sums(torch.ones_like(keys[:, :1].detach()), everyones)[own, 0] - 1
    sides = _sides(form, rows, keys if shard.ranks > 1 else None, labels, everyones, scale, shard)
    lses = [checked_logsumexp(pairs, False, backend) for pairs in sides]
    if form == "out":
        sums = _ClassSums.apply(keys, everyones)[own]
        logits = scale * (row_dot(rows, sums, backend=backend) - row_dot(rows, backend=backend))
        losses = lses[0] - logits / mine.clamp_min(1)
    else:
        # Where one class is left out, no gradient may come back through infinity.
        lse, own_lse = (torch.where(of == -torch.inf, 0.0, of) for of in lses)
        losses = losses_of(torch.where(lses[0] == -torch.inf, -torch.inf, lse), own_lse) + mine.clamp_min(1).log()
    return torch.where(mine > 0, losses, 0.0)
