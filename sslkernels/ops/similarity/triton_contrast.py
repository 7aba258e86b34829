# SPDX-License-Identifier: Apache-2.0
"""A whole loss and its gradient on Triton, for one process, in a handful of launches.

    unit rows and norms of both sides         1   only if rows are divided by their norms
    running sums of the pairs                 1   float32: a product, and its tiles, for each chunk
    log-sum-exps, losses and weights          1
    what moves x, and what moves the keys     1   fused; else weights, and a product for each side, for each chunk
    gradients of both sides, and the value    1
    the scale's gradient                      1   only if it is wanted

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
from sslkernels.ops.similarity.triton_anchors import Parts
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
    n, itself, both = anchors.x.shape[0], anchors.against == "itself", anchors.against == "both"
    sides, gradients, scale = _sides(anchors), any(needs), anchors.scale
    way, parts = plan_for(sides.pairs), None
    # Where no key can get a gradient, one fused sweep sums the keys by their weights too.
    if anchors.frozen and gradients and way.fused is not None and not (itself or both):
        running, parts = fused.attended(way.fused, sides.pairs)
        swept = Swept(running, None)
    else:
        swept = tiles.sums(way, sides.pairs, both, gradients)
    rows, columns = (swept.rows.of(0, n), swept.rows.of(n, 2 * n)) if itself else (swept.rows, swept.columns)
    share = (1 / n if mean else 1.0) / (2 if both or (itself and mean) else 1)
    positives, room = Positives(sides.x, sides.y, scale), sides.x.dtype == torch.float16 and parts is None
    weighed = triton_anchors.weigh(positives, rows, columns, share, gradients, room)
    none = floats(scale, 0)
    if weighed.weights is None:
        return triton_anchors.summed(weighed.losses)[0], none, none, none, none
    need_x = needs.need_x or needs.need_scale
    x_parts = y_parts = queue_parts = Parts(None)
    if parts is not None:
        if need_x:
            x_parts = Parts(attended_of(swept.rows, parts, weighed.lse[0])[None], weighed.weights[0])
    elif itself:
        term = weighed.lse.view(-1), weighed.weights.view(-1)
        of_both, _ = moved(way, sides.pairs, Terms(term, term, weighed.largest), True, False, swept.products)
        assert of_both is not None
        x_parts, y_parts = Parts(of_both[:, :n]), Parts(of_both[:, n:])
    else:
        of_rows = weighed.lse[0], weighed.weights[0]
        of_columns = (weighed.lse[1], weighed.weights[1]) if both else None
        need_keys = needs.need_y if anchors.negatives is None else needs.need_negatives
        terms = Terms(of_rows, of_columns, weighed.largest)
        moved_x, moved_keys = moved(way, sides.pairs, terms, need_x, need_keys, swept.products)
        x_parts, y_parts = Parts(moved_x), Parts(moved_keys)
        if anchors.negatives is not None:
            y_parts, queue_parts = Parts(None), y_parts
    value = floats(scale)
    ends = Moved(sides.x, None, sides.x_norms, sides.y, None, sides.y_norms, scale)
    dx, dy, along = triton_anchors.finish(
        ends, x_parts, y_parts, weighed, weighed.pull, value, needs.need_x, needs.need_y, needs.need_scale
    )
    dnegatives = none
    if needs.need_negatives and anchors.negatives is not None:
        ends = Moved(anchors.negatives, None, None, None, None, None, scale)
        dnegatives, _, _ = triton_anchors.finish(
            ends, queue_parts, Parts(None), weighed, None, None, True, False, False
        )
    return value, dx, dy, dnegatives, none if along is None else triton_anchors.summed(along)[0]


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
        pairs = Pairs(rows, None, scale, None, 0, 2)
    elif queue is None:
        pairs = Pairs(x, y, scale, None, 0, 1)
    else:
        pairs = Pairs(x, rows_of(queue), scale, None)
    return _Sides(pairs, x, y, *((None, None) if norms is None else (norms[:n], norms[n:])))
