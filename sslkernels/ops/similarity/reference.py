# SPDX-License-Identifier: Apache-2.0
"""Run the similarity family in plain PyTorch: the specification of every other backend, and a backend of its own.

S_ij = scale * <x_i, y_j> is summed in fp32 (fp64 for fp64 input) and stored whole, in O(N*M) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.similarity.schema import Pairs, Sums


def forward(pairs: Pairs, columns: bool, attend: bool, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-sum-exps of rows (N,), of columns (M,) if ``columns``, and softmax(S) @ y (N, D) if ``attend``."""
    logits, _, keys = _logits(pairs)
    logits = logits.masked_fill(_left_out(pairs.exclude, logits), -torch.inf)
    rows = logits.logsumexp(1)
    column_sums = logits.logsumexp(0) if columns else logits.new_empty(0)
    attended = _weights(logits, rows[:, None]) @ keys if attend else logits.new_empty(0)
    return rows, column_sums, attended


def backward(
    pairs: Pairs, sums: Sums, kept: Tensor | None, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, dy and dscale of sum(rows_grad * rows) + sum(cols_grad * cols); those not needed are empty.

    With ``y=None`` both terms belong to the same rows, each with its own exclusions, and dscale is halved.
    """
    (x, y, scale, exclude), (rows, rows_grad, cols, cols_grad) = pairs, sums
    logits, queries, keys = _logits(pairs)
    left_out = _left_out(exclude, logits)
    weights = torch.zeros_like(logits)
    if rows is not None and rows_grad is not None:
        weights += (rows_grad[:, None] * _weights(logits, rows[:, None])).masked_fill(left_out, 0)
    if cols is not None and cols_grad is not None:
        left_out = left_out if y is not None else left_out.T
        weights += (cols_grad[None, :] * _weights(logits, cols[None, :])).masked_fill(left_out, 0)
    moved = weights @ keys
    dscale = (queries * moved).sum()
    if y is None:
        dscale = dscale / 2
    dx = (scale * moved).to(x.dtype) if need_x else x.new_empty(0)
    dy = (scale * (weights.T @ queries)).to(y.dtype) if need_y and y is not None else x.new_empty(0)
    return dx, dy, dscale


def _logits(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    queries = widened(pairs.x)
    keys = queries if pairs.y is None else widened(pairs.y)
    return pairs.scale * (queries @ keys.T), queries, keys


def _left_out(exclude: Tensor | None, logits: Tensor) -> Tensor:
    left_out = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    if exclude is None or logits.numel() == 0:
        return left_out
    # The entries of -1 mark a spare column, which is cut off at the end.
    spare = torch.zeros(logits.shape[0], logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    spare.scatter_(1, torch.where(exclude < 0, logits.shape[1], exclude), True)
    return spare[:, :-1]


def _weights(logits: Tensor, lse: Tensor) -> Tensor:
    """Return exp(logits - lse), or zero where no term was left to sum."""
    return torch.where(lse == -torch.inf, 0.0, torch.exp(logits - lse))
