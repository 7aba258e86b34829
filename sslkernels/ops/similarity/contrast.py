# SPDX-License-Identifier: Apache-2.0
"""Compute losses of anchors whose negatives are the rest of the batch, on one rank or on many.

    anchor i:   log(e^p_i + sum_j e^s_ij) - p_i  =  softplus(lse_i - p_i),   j over all but itself and its positive
    backward    w_i = g_i sigmoid(lse_i - p_i);  dS_ij = w_i e^(s_ij - lse_i),  dp_i = -w_i

Nothing cancels where p dominates, as it would in lse(all) - p. One autograd node holds the whole loss: at small N the
nodes cost more than the arithmetic.

With several ranks, a row is an anchor on its own rank and a key of every anchor of the group. Its gradient as a key
needs only the lse and the weights of the other ranks, 2N floats; a reduce-scatter would move N*D. A rank with n of N
rows spends 2*n*N*D operations forward and 4*n*N*D backward for each side.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.distributed import Shard, all_rows
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.reduction import each, reduced
from sslkernels.ops.rows.schema import dot_backward, dot_forward
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.autograd import workspace
from sslkernels.ops.similarity.schema import SIMILARITY, Pairs, Sums


def self_contrast(x: Tensor, scale: Tensor, shift: int, reduction: str, shard: Shard, backend: str | None) -> Tensor:
    """Contrast every row of x with all others, `reduced`; the positive of row i is row ``(i + shift) mod N``."""
    return _SelfContrast.apply(x, scale, shift, reduction, shard, SIMILARITY.choose(x.device, x.dtype, backend))


def pair_contrast(x: Tensor, y: Tensor, scale: Tensor, reduction: str, shard: Shard, backend: str | None) -> Tensor:
    """Contrast row i of x with all of y, and row i of y with all of x; average both, `reduced`. x_i matches y_i."""
    return _PairContrast.apply(x, y, scale, reduction, shard, SIMILARITY.choose(x.device, x.dtype, backend))


def contrast(
    lse: Tensor, x: Tensor, y: Tensor, scale: Tensor, reduction: str, shard: Shard, backend: str | None
) -> Tensor:
    """Contrast every row of x with negatives whose lse is given, `reduced`; row i of y is the positive of x_i."""
    return _Contrast.apply(lse, x, y, scale, reduction, shard, SIMILARITY.choose(x.device, x.dtype, backend))


def _softplus(gap: Tensor) -> Tensor:
    """Compute log(1 + e^gap), and return ``gap`` itself where fp32 cannot tell the difference."""
    return F.softplus(gap, threshold=40)


def _share(logits: Tensor) -> Tensor:
    """Make infinite logits of positives NaN before losses subtract them; they would pass for perfect matches."""
    return logits.nan_to_num(torch.nan, torch.nan, -torch.inf)


def _within_range(logits: Tensor) -> Tensor:
    """Clamp logits of positives to weigh their negatives: beside an infinite positive only infinite negatives count."""
    return logits.clamp_max(torch.finfo(logits.dtype).max)


def _of_share(weight: Tensor, logits: Tensor) -> Tensor:
    """Derive the weight of positives from that of their negatives: it is NaN where the positive is infinite."""
    return torch.add(weight, logits.clamp_min(0), alpha=0)


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lse: Tensor,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        reduction: str,
        shard: Shard,
        backend: str,
    ) -> Tensor:
        positive = dot_forward(x, y, 0, backend)
        logits = scale * positive
        ctx.save_for_backward(x, y, scale, positive, logits, lse)
        ctx.reduction, ctx.shard, ctx.backend = reduction, shard, backend
        return reduced(_softplus(lse - _share(logits)), reduction, shard)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, scale, positive, logits, lse = ctx.saved_tensors
        need_x, need_y, need_scale = ctx.needs_input_grad[1:4]
        beside = each(grad, x.shape[0], ctx.reduction, ctx.shard) * torch.sigmoid(lse - _within_range(logits))
        weight = _of_share(beside, logits)
        dx = dy = None
        if need_x or need_y:
            dx, dy = dot_backward(x, y, 0, scale * -weight, need_x, need_y, ctx.backend)
        return (
            beside,
            dx if need_x else None,
            dy if need_y else None,
            -torch.dot(weight, positive) if need_scale else None,
            None,
            None,
            None,
        )


class _SelfContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: int, reduction: str, shard: Shard, backend: str) -> Tensor:
        own = torch.arange(shard.start, shard.start + x.shape[0], device=x.device)
        left_out = torch.stack((own, own.roll(-shift)), 1)
        keys = None if shard.ranks == 1 else all_rows(x, shard)
        kept = workspace(x, keys, keys is None, backend, any(ctx.needs_input_grad))
        lse, _, _ = similarity.forward(Pairs(x, keys, scale, left_out), False, False, kept, backend)
        positive = dot_forward(x, None, shift, backend)
        logits = scale * positive
        ctx.save_for_backward(x, keys, scale, left_out, lse, positive, logits, kept)
        ctx.shift, ctx.reduction, ctx.shard, ctx.backend = shift, reduction, shard, backend
        return reduced(_softplus(lse - _share(logits)), reduction, shard)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, keys, scale, left_out, lse, positive, logits, kept = ctx.saved_tensors
        beside = each(grad, x.shape[0], ctx.reduction, ctx.shard) * torch.sigmoid(lse - _within_range(logits))
        weight = _of_share(beside, logits)
        everyone = _everyone(lse, beside, ctx.shard)
        pairs = Pairs(x, keys, scale, left_out)
        dx, _, dscale = similarity.backward(pairs, Sums(lse, beside, *everyone), kept, True, False, ctx.backend)
        if keys is not None:  # a pair is in the sums of two ranks, once as a row and once as a column; each gives half
            dscale = dscale / 2
        of_positive, _ = dot_backward(x, None, ctx.shift, scale * weight, True, False, ctx.backend)
        need_x, need_scale = ctx.needs_input_grad[:2]
        return (
            dx - of_positive if need_x else None,
            dscale - torch.dot(weight, positive) if need_scale else None,
            None,
            None,
            None,
            None,
        )


class _PairContrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, scale: Tensor, reduction: str, shard: Shard, backend: str) -> Tensor:
        own = torch.arange(shard.start, shard.start + x.shape[0], device=x.device)[:, None]
        needed = any(ctx.needs_input_grad)
        all_x = all_y = kept_there = None
        if shard.ranks == 1:
            kept = workspace(x, y, False, backend, needed)
            rows, columns, _ = similarity.forward(Pairs(x, y, scale, own), True, False, kept, backend)
        else:
            all_x, all_y = all_rows(x, shard), all_rows(y, shard)
            kept, kept_there = (workspace(x, all_y, False, backend, needed) for _ in range(2))
            rows, _, _ = similarity.forward(Pairs(x, all_y, scale, own), False, False, kept, backend)
            columns, _, _ = similarity.forward(Pairs(y, all_x, scale, own), False, False, kept_there, backend)
        positive = dot_forward(x, y, 0, backend)
        logits = scale * positive
        ctx.save_for_backward(x, y, all_x, all_y, scale, own, rows, columns, positive, logits, kept, kept_there)
        ctx.reduction, ctx.shard, ctx.backend = reduction, shard, backend
        share = _share(logits)
        return reduced((_softplus(rows - share) + _softplus(columns - share)) / 2, reduction, shard)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, all_x, all_y, scale, own, rows, columns, positive, logits, kept, kept_there = ctx.saved_tensors
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        half = each(grad, x.shape[0], ctx.reduction, ctx.shard) / 2
        within = _within_range(logits)
        of_rows, of_columns = half * torch.sigmoid(rows - within), half * torch.sigmoid(columns - within)
        weight = _of_share(of_rows + of_columns, logits)
        dx = dy = dscale = None
        if ctx.shard.ranks == 1:
            sums = Sums(rows, of_rows, columns, of_columns)
            dx, dy, dscale = similarity.backward(
                Pairs(x, y, scale, own), sums, kept, need_x or need_scale, need_y, ctx.backend
            )
        else:
            everyones_rows = _everyone(rows, of_rows, ctx.shard)
            everyones_columns = _everyone(columns, of_columns, ctx.shard)
            if need_x or need_scale:
                sums = Sums(rows, of_rows, *everyones_columns)
                dx, _, dscale = similarity.backward(Pairs(x, all_y, scale, own), sums, kept, True, False, ctx.backend)
            if need_y:
                sums = Sums(columns, of_columns, *everyones_rows)
                dy, _, _ = similarity.backward(Pairs(y, all_x, scale, own), sums, kept_there, True, False, ctx.backend)
        dx_positive, dy_positive = dot_backward(x, y, 0, scale * weight, need_x, need_y, ctx.backend)
        return (
            dx - dx_positive if need_x else None,
            dy - dy_positive if need_y else None,
            dscale - torch.dot(weight, positive) if need_scale else None,
            None,
            None,
            None,
        )


def _everyone(lse: Tensor, weight: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
    if shard.ranks == 1:
        return lse, weight
    both = all_rows(torch.stack((lse, weight), 1), shard)
    return both[:, 0].contiguous(), both[:, 1].contiguous()
