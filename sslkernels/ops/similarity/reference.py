# SPDX-License-Identifier: Apache-2.0
"""Run the similarity family in plain PyTorch: the specification of every other backend, and a backend of its own.

S_ij = scale * <x_i, y_j> + bias_j is summed in fp32 (fp64 for fp64 input) and stored whole, in O(N*M) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.dtypes import widened
from sslkernels.ops.similarity import composed
from sslkernels.ops.similarity.anchors import left_out_by, losses_of, weights_of
from sslkernels.ops.similarity.schema import Anchors, Moved, Needs, Pairs, Positives, Sums


def forward(pairs: Pairs, columns: bool, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-sum-exps of rows (N,), of columns (M,) if ``columns``, and softmax(S) @ y (N, D) if ``attend``."""
    logits, _, keys = _logits(pairs)
    logits = logits.masked_fill(left_out_by(pairs), -torch.inf)
    rows = logits.logsumexp(1)
    column_sums = logits.logsumexp(0) if columns else logits.new_empty(0)
    attended = _weights(logits, rows[:, None]) @ keys if attend else logits.new_empty(0)
    return rows, column_sums, attended


def backward(pairs: Pairs, sums: Sums, need_x: bool, need_y: bool, need_bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of weight * y, of weight * x, and of weights over rows.

    The weights are the gradient of the logits, for sum(rows_grad * rows) + sum(cols_grad * cols). With ``y=None`` both
    terms belong to the same rows, each with its own exclusions.
    """
    y, (rows, rows_grad, cols, cols_grad) = pairs.y, sums
    logits, queries, keys = _logits(pairs)
    left_out = left_out_by(pairs)
    weights = torch.zeros_like(logits)
    if rows is not None and rows_grad is not None:
        weights += (rows_grad[:, None] * _weights(logits, rows[:, None])).masked_fill(left_out, 0)
    if cols is not None and cols_grad is not None:
        left_out = left_out if y is not None else left_out.T
        weights += (cols_grad[None, :] * _weights(logits, cols[None, :])).masked_fill(left_out, 0)
    return (
        weights @ keys if need_x or y is None else logits.new_empty(0),
        weights.T @ queries if need_y and y is not None else logits.new_empty(0),
        weights.sum(0) if need_bias and y is not None else logits.new_empty(0),
    )


def weigh(
    positives: Positives, rows: Tensor, cols: Tensor | None, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y, scale = positives
    products = (widened(x) * widened(y)).sum(1)
    value, weights, pull = torch.zeros_like(scale), [], torch.zeros_like(rows)
    for lse in (rows,) if cols is None else (rows, cols):
        # The weight comes first: the sum of large losses may overflow where their mean does not.
        value = value + (share * losses_of(lse, scale * products)).sum()
        beside, own = weights_of(lse, scale * products, share)
        weights.append(beside)
        pull = pull + own
    return value, torch.stack(weights), pull, pull.dot(products)


def finish(
    moved: Moved, pull: Tensor | None, need_x: bool, need_y: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn what moved unit rows into the gradient of the rows that were divided by their norms."""
    x, moved_x, x_norms, y, moved_y, y_norms, scale = moved
    along = [
        (widened(rows) * by).sum() for rows, by in ((x, moved_x), (y, moved_y)) if rows is not None and by is not None
    ]
    dx, dy = scale.new_empty(0), scale.new_empty(0)
    if need_x:
        dx = _finished(widened(x), moved_x, x_norms, None if y is None else widened(y), pull, scale)
    if need_y and y is not None:
        dy = _finished(widened(y), moved_y, y_norms, widened(x), pull, scale)
    if not need_scale:
        return dx, dy, scale.new_empty(0)
    return dx, dy, torch.stack(along).mean() if along else scale.new_zeros(())


def _finished(
    x: Tensor, moved: Tensor | None, norms: Tensor | None, partners: Tensor | None, pull: Tensor | None, scale: Tensor
) -> Tensor:
    gradient = torch.zeros_like(x) if moved is None else moved
    if partners is not None and pull is not None:
        gradient = gradient - pull[:, None] * partners
    gradient = scale * gradient
    if norms is not None:
        along = torch.where(norms > 1e-12, (x * gradient).sum(1), 0)
        gradient = (gradient - x * along[:, None]) / norms.clamp_min(1e-12)[:, None]
    return gradient


def contrast(anchors: Anchors, mean: bool, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return composed.contrast(anchors, mean, needs, Shard.alone, "reference")


def _logits(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    queries = widened(pairs.x)
    keys = queries if pairs.y is None else widened(pairs.y)
    logits = pairs.scale * (queries @ keys.T)
    return logits if pairs.bias is None else logits + pairs.bias, queries, keys


def _weights(logits: Tensor, lse: Tensor) -> Tensor:
    """Return exp(logits - lse), or zero where no term was left to sum."""
    return torch.where(lse == -torch.inf, 0.0, torch.exp(logits - lse))
