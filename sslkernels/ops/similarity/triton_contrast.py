# SPDX-License-Identifier: Apache-2.0
"""A whole loss and its gradient on Triton, for one process, in a handful of launches.

    unit rows and norms of both sides         1   only if rows are divided by their norms
    running sums of the pairs                 1   float32: a product, and its tiles, for each chunk
    log-sum-exps, losses and weights          1
    what moves x, and what moves the keys     1   fused; else weights, and a product for each side, for each chunk
    all gradients, and the value              1

Weights form the logits again, but for float32 products that one chunk holds. Several ranks exchange rows and weights
between these steps (composed.py), whose kernels are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.launch import rows_of
from sslkernels.ops.rows.triton import unit_forward
from sslkernels.ops.similarity import triton_anchors
from sslkernels.ops.similarity import triton_fused as fused
from sslkernels.ops.similarity import triton_tiles as tiles
from sslkernels.ops.similarity.schema import Anchors, Moved, Needs, Pairs, Positives
from sslkernels.ops.similarity.triton_anchors import Parts, Weighed
from sslkernels.ops.similarity.triton_parts import Swept, Terms, attended_of
from sslkernels.ops.similarity.triton_plan import Plan, plan_for
from sslkernels.ops.triton_launch import floats


class _Sides(NamedTuple):
    """Hold the rows of both sides as they are multiplied, one after another where the pairs ask for it."""

    pairs: Pairs
    x: Tensor
    y: Tensor
    x_norms: Tensor | None
    y_norms: Tensor | None


def contrast(anchors: Anchors, mean: bool, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    sides, scale, queue = _sides(anchors), anchors.scale, anchors.negatives
    way, none = plan_for(sides.pairs), floats(scale, 0)
    weighed, attended, kept = _weighed(way, anchors, sides, mean, needs)
    if weighed.weights is None:
        return triton_anchors.summed(weighed.losses)[0], none, none, none, none
    if attended is not None:
        x_parts, y_parts, queue_parts = Parts(attended[None], weighed.weights[0]), Parts(None), Parts(None)
    else:
        x_parts, y_parts, queue_parts = _parts(way, anchors, sides, weighed, needs, kept)
    value = floats(scale)
    ends = Moved(sides.x, None, sides.x_norms, sides.y, None, sides.y_norms, scale)
    dx, dy, dscale = triton_anchors.finish(
        ends, x_parts, y_parts, weighed, weighed.pull, value, needs.need_x, needs.need_y, needs.need_scale
    )
    dnegatives = none
    if needs.need_negatives and queue is not None:
        ends = Moved(queue, None, None, None, None, None, scale)
        dnegatives, _, _ = triton_anchors.finish(
            ends, queue_parts, Parts(None), weighed, None, None, True, False, False
        )
    return value, dx, dy, dnegatives, dscale


def _weighed(
    way: Plan, anchors: Anchors, sides: _Sides, mean: bool, needs: Needs
) -> tuple[Weighed, Tensor | None, Tensor | None]:
    """Sum the pairs and weigh the anchors.

    Also return softmax(logits)*y if one sweep gave it, and the products that may be used again. The sums, which are
    large where the sides are, go when this returns.
    """
    n, itself, both = anchors.x.shape[0], anchors.against == "itself", anchors.against == "both"
    gradients, parts = any(needs), None
    # Where no key can get a gradient, one fused sweep sums the keys by their weights too.
    if anchors.frozen and gradients and way.fused is not None and not (itself or both):
        running, parts = fused.attended(way.fused, sides.pairs)
        swept = Swept(running, None)
    else:
        swept = tiles.sums(way, sides.pairs, both, gradients)
    rows, columns = (swept.rows.of(0, n), swept.rows.of(n, 2 * n)) if itself else (swept.rows, swept.columns)
    share = (1 / n if mean else 1.0) / (2 if both or (itself and mean) else 1)
    positives, room = Positives(sides.x, sides.y, anchors.scale), sides.x.dtype == torch.float16 and parts is None
    weighed = triton_anchors.weigh(positives, rows, columns, share, gradients, room, needs.need_scale)
    attended = None if parts is None else attended_of(rows, parts, weighed.lse[0])
    return weighed, attended, swept.products


def _parts(
    way: Plan, anchors: Anchors, sides: _Sides, weighed: Weighed, needs: Needs, kept: Tensor | None
) -> tuple[Parts, Parts, Parts]:
    """Return what moves the rows of x, of y and of the queue."""
    n, need_x = anchors.x.shape[0], needs.need_x or needs.need_scale
    lse, weights = weighed.lse, weighed.weights
    assert weights is not None
    if anchors.against == "itself":
        term = lse.view(-1), weights.view(-1)
        moved_both, _ = moved(way, sides.pairs, Terms(term, term, weighed.largest), True, False, kept)
        assert moved_both is not None
        return Parts(moved_both[:, :n]), Parts(moved_both[:, n:]), Parts(None)
    of_columns = (lse[1], weights[1]) if anchors.against == "both" else None
    need_keys = needs.need_y if anchors.negatives is None else needs.need_negatives
    terms = Terms((lse[0], weights[0]), of_columns, weighed.largest)
    moved_x, moved_keys = moved(way, sides.pairs, terms, need_x, need_keys, kept)
    keys = Parts(moved_keys)
    return (Parts(moved_x), keys, Parts(None)) if anchors.negatives is None else (Parts(moved_x), Parts(None), keys)


def moved(
    way: Plan, pairs: Pairs, terms: Terms, need_x: bool, need_y: bool, kept: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """O for x and y, in parts (parts, N, D), over the unit of the terms. ``kept`` are the products of `tiles.sums`."""
    if way.fused is not None and need_x and not need_y:
        return fused.moved(way.fused, pairs, terms), None
    return tiles.moved(way, pairs, terms, need_x, need_y, kept)


def _sides(anchors: Anchors) -> _Sides:
    x, y, queue, scale, n = *anchors[:4], anchors.x.shape[0]
    norms = None
    if anchors.unit:
        rows, norms = unit_forward(x, y, anchors.dtype)
        x, y = rows[:n], rows[n:]
    elif anchors.against == "itself":
        rows = torch.cat((x, y))
        x, y = rows[:n], rows[n:]
    else:
        x, y = rows_of(x), rows_of(y)
    if anchors.against == "itself":
        pairs = Pairs.of_views(rows, None, scale, 0, 2)
    elif queue is None:
        pairs = Pairs.of_views(x, y, scale, 0, 1)
    else:
        pairs = Pairs(x, rows_of(queue), scale, None)
    return _Sides(pairs, x, y, *((None, None) if norms is None else (norms[:n], norms[n:])))
