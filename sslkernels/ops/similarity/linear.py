# SPDX-License-Identifier: Apache-2.0
"""Classify rows by products with one row of weights for each class, never storing rows x classes.

    t      the target's logit: scale * <x_i, w_y> + b_y, or scale * phi(cosine) with a margin; the log-sum-exp of them
           where a class has several rows of weights
    lse    log-sum-exp of the other classes' logits
    loss   softplus(lse - t) + smoothing * (t - mean of all logits)

The mean of all logits is a product with the mean of the weights.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.rows.schema import unit_forward
from sslkernels.ops.similarity import checked_logsumexp
from sslkernels.ops.similarity.anchors import losses_of
from sslkernels.ops.similarity.schema import SIMILARITY, Moved, Pairs, Sums, backward, finish, forward


class Classes(NamedTuple):
    """Say how rows are classified. ``kind`` of margin is "arc", an angle, or "cos", a part of the cosine."""

    smoothing: float
    margin: float
    kind: str
    subcenters: int  # rows of weights of a class
    unit: bool  # rows and weights are divided by their norms
    dtype: torch.dtype  # they are rounded to this before they are multiplied

    def with_margin(self, cosine: Tensor, rows: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return phi and its derivative at the cosines (N, S) of rows (N, 1, D) with their class's weights (N, S, D).

        phi of an angle is the cosine of the angle plus the margin, which goes on falling beyond 180 degrees. Towards an
        angle of 0 its derivative has no bound: it stops at the angle that the dtype can tell from 0.
        """
        if not self.margin or self.kind == "cos":
            return cosine - self.margin, torch.ones_like(cosine)
        # A cosine near 1 says little of its angle. The part of one vector that is square to the other keeps its digits.
        square = own - cosine[..., None] * rows
        sine = torch.where(cosine * cosine < 0.5, 1 - cosine * cosine, square.square().sum(2)).sqrt()
        along, across = math.cos(self.margin), math.sin(self.margin)
        falls = cosine > -along
        return (
            torch.where(falls, cosine * along - sine * across, cosine - self.margin * across),
            torch.where(falls, along + cosine / sine.clamp_min(torch.finfo(self.dtype).eps) * across, 1.0),
        )


class _Asked(NamedTuple):
    classes: Classes
    mean: bool
    backend: str


def classify(
    classes: Classes,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    reduction: str,
    backend: str | None,
) -> Tensor:
    """Reduce the cross-entropies of rows x (N, D) with weights (K, D) and targets (N,); a target of -1 has loss 0.

    A mean does not count these rows.
    """
    chosen = SIMILARITY.choose(x.device, x.dtype, backend)
    if reduction == "none":
        return _one_by_one(classes, x, weight, target, scale, bias, chosen)
    asked = _Asked(classes, reduction == "mean", chosen)
    return in_one_call(_computed, asked, x, weight, target, scale, bias)


def _computed(
    asked: _Asked, needs: tuple[bool, ...], x: Tensor, weight: Tensor, target: Tensor, scale: Tensor, bias: Any
) -> tuple[Any, ...]:
    classes, backend, k = asked.classes, asked.backend, len(weight)
    need_x, need_weight, _, need_scale, need_bias = needs
    x_norms = w_norms = None
    rows, weights = x, weight
    if classes.unit:
        rows, x_norms = unit_forward(x, None, classes.dtype, backend)
        weights, w_norms = unit_forward(weight, None, classes.dtype, backend)
    there = target >= 0
    share = torch.where(there, 1.0, 0.0).to(scale.dtype)
    if asked.mean:
        share = share / share.sum().clamp_min(1)
    place, excluded = _places(classes, target)
    wide, own = widened(rows)[:, None], widened(weights[place])
    pairs = Pairs(rows, weights, scale, excluded, bias=bias)
    # A frozen classifier needs no second pass: one sweep sums its rows by their weights too.
    attend = need_x and not (need_weight or need_scale or need_bias)
    lse, _, attended = forward(pairs, False, attend, backend)
    products = (wide * own).sum(2)
    phi, slope = classes.with_margin(products, wide, own)
    offset = None if bias is None else bias[place]
    logits = _plus(scale * phi, offset)
    t = logits.logsumexp(1)
    smoothing, middle, losses = classes.smoothing, None, losses_of(lse, t)
    if smoothing:
        middle = widened(weights).mean(0)
        losses = losses + smoothing * (t - _mean(rows, middle, products, t, scale, bias, offset, k))
    value = (share * torch.where(there, losses, 0.0)).sum()
    if not any(needs):
        return value, *[None] * 5
    beside = torch.where(there, share * torch.sigmoid(lse - t), 0.0)
    of_target = (smoothing * (1 - 1 / k) * share - beside)[:, None] * torch.exp(logits - t[:, None])
    if attend:
        moved_x, moved_w, of_bias = attended * beside[:, None], attended, attended  # the others are not asked for
    else:
        moved_x, moved_w, of_bias = backward(
            pairs, Sums(lse, beside, None, None), need_x or need_scale, need_weight, need_bias, backend
        )
    # The target's weights pull a row by this much. Smoothing pulls it to all, and takes that of the target back.
    of_mean = smoothing / k * share[:, None]
    pull = (of_target * slope + of_mean)[..., None]
    if need_x or need_scale:
        moved_x = moved_x + (pull * own).sum(1)
        if middle is not None:
            moved_x = moved_x - (smoothing * share)[:, None] * middle
    if need_weight:
        moved_w = moved_w.index_add(0, place.flatten(), (pull * wide).flatten(0, 1))
        if middle is not None:
            moved_w = moved_w - smoothing / k * (share @ widened(rows))
    if need_bias:
        of_bias = of_bias.index_add(0, place.flatten(), (of_target + of_mean).flatten()) - of_mean.sum()
    # Each side knows the whole gradient of the scale; we take that of the rows, whatever else is asked for.
    moved_x = moved_x if need_x or need_scale else None
    dx, _, along = finish(
        Moved(rows, moved_x, x_norms, None, None, None, scale), None, need_x, False, need_scale, backend
    )
    dw = along
    if need_weight:
        dw, _, _ = finish(Moved(weights, moved_w, w_norms, None, None, None, scale), None, True, False, False, backend)
    if need_scale:  # the target's logit is phi times the scale, and not the cosine
        along = along + (of_target * (phi - slope * products)).sum()
    return value, dx, dw, None, along, of_bias


def _places(classes: Classes, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the weights of each row's own class stand (N, S), and the same with -1 where there is no target."""
    first = classes.subcenters * target[:, None]
    place = first.clamp_min(0) + torch.arange(classes.subcenters, device=target.device)
    return place, torch.where(first < 0, -1, place)


def _plus(logits: Tensor, offset: Tensor | None) -> Tensor:
    return logits if offset is None else logits + offset


def _mean(
    rows: Tensor,
    middle: Tensor,
    products: Tensor,
    t: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    offset: Tensor | None,
    k: int,
) -> Tensor:
    """Return the mean of the logits of all k classes of one row each, of which the target's is t."""
    logits = scale * (widened(rows) @ middle)
    if bias is not None:
        logits = logits + bias.mean()
    return logits + (t - _plus(scale * products, offset)[:, 0]) / k


def _one_by_one(
    classes: Classes, x: Tensor, weight: Tensor, target: Tensor, scale: Tensor, bias: Tensor | None, backend: str
) -> Tensor:
    if classes.unit:
        x, weight = unit_rows(x, backend=backend), unit_rows(weight, backend=backend)
    place, excluded = _places(classes, target)
    wide, own = widened(x)[:, None], widened(weight[place])
    lse = checked_logsumexp(Pairs(x, weight, scale, excluded, bias=bias), False, backend)
    products = (wide * own).sum(2)
    offset = None if bias is None else bias[place]
    # The value is that of phi, and the gradient its slope's, which is finite everywhere.
    phi, slope = classes.with_margin(products.detach(), wide.detach(), own.detach())
    phi = phi + slope * (products - products.detach())
    t = _plus(scale * phi, offset).logsumexp(1)
    losses = losses_of(lse, t)
    if classes.smoothing:
        middle = widened(weight).mean(0)
        mean = _mean(x, middle, products, t, scale, bias, offset, len(weight))
        losses = losses + classes.smoothing * (t - mean)
    return torch.where(target >= 0, losses, 0.0)
