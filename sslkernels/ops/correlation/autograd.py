# SPDX-License-Identifier: Apache-2.0
"""Make moments of columns differentiable in two steps, and losses of them in one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.correlation import composed, ranks
from sslkernels.ops.correlation import schema as correlation
from sslkernels.ops.correlation.composed import Kept, Slopes, Where
from sslkernels.ops.correlation.schema import Energy, Formula, Scaling
from sslkernels.ops.derivative import first_derivative


class Asked(NamedTuple):
    """Say what a loss asks about the columns, and how to compute it."""

    formula: Formula
    scaling: Scaling
    energy: Energy
    where: Where


def compute(asked: Asked, needs: tuple[bool, bool], z0: Tensor, z1: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a loss and its gradients for `in_one_call`: one op, or with several ranks a composition of ops."""
    formula, scaling, energy, where = asked
    if where.shard.ranks > 1:
        return composed.loss(z0, z1, scaling, energy, formula, *needs, where)
    return correlation.loss(z0, z1, scaling, energy, formula, *needs, where.backend)


class MomentsAsked(NamedTuple):
    """Say which moments to compute, and how."""

    centre: bool
    scaling: Scaling
    energy: Energy
    where: Where


class ColumnMoments(torch.autograd.Function):
    """Compute `Moments`, one after another. Their gradients are summed over ranks in the backward."""

    @staticmethod
    def forward(ctx: Any, z0: Tensor, z1: Tensor | None, asked: MomentsAsked) -> tuple[Tensor, ...]:
        found, kept = composed.moments(z0, z1, *asked)
        ctx.save_for_backward(*kept)
        ctx.set_materialize_grads(False)  # without a gradient for the gap, the backward need not read both views for it
        ctx.asked, ctx.shapes = asked, [x.shape for x in found]
        return tuple(x.clone() for x in found)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        kept, (_, _, energy, where) = Kept(*ctx.saved_tensors), ctx.asked
        slopes = Slopes(*grads)
        if where.shard.ranks > 1:
            zeros = (kept.own_diagonal.new_zeros(shape) for shape in ctx.shapes)
            given = [zero if grad is None else grad for grad, zero in zip(grads, zeros, strict=True)]
            slopes = Slopes(*ranks.all_summed(given, where.shard))
            if grads[2] is None:  # every rank asked for the same
                slopes = slopes._replace(gap=None)
        need0, need1 = ctx.needs_input_grad[:2]
        dz0, dz1 = composed.gradients(kept, energy, slopes, need0, need1, kept.z0.dtype, where)
        return dz0 if need0 else None, dz1 if need1 else None, None
