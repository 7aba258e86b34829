# SPDX-License-Identifier: Apache-2.0
"""Run the sampled family in plain PyTorch: the specification of every other backend, and a backend of its own.

It takes some rows of x at a time, so that the rows of y that they name are at most ``NUMBERS`` numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.sampled.schema import Sampled

NUMBERS = 1 << 22  # of a block, or more where a single row of x names more


def forward(sampled: Sampled) -> Tensor:
    """Compute scale * <x_i, y_j> for j = index[i, k], and -inf for an index of -1."""
    out = sampled.scale.new_empty(sampled.index.shape)
    for here, x, rows, absent, _ in _blocks(sampled):
        products = sampled.scale * torch.einsum("nd,nkd->nk", x, rows)
        out[here] = products.masked_fill(absent, -torch.inf)
    return out


def backward(
    sampled: Sampled, grad: Tensor, need_x: bool, need_y: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute dx_i = scale sum_k g_ik y_j, dy_j = scale sum of g_ik x_i, and the sum of g_ik <x_i, y_j>."""
    x, y, _, scale = sampled
    moved_x = scale.new_empty(x.shape)
    moved_y = scale.new_zeros((y.shape[0] + 1, y.shape[1]))  # the last row takes what belongs to none
    for here, part, rows, absent, target in _blocks(sampled):
        g = grad[here].masked_fill(absent, 0)
        if need_x or need_scale:
            moved_x[here] = torch.einsum("nk,nkd->nd", g, rows)
        if need_y:
            moved_y.index_add_(0, target.flatten(), (g[:, :, None] * part[:, None]).flatten(0, 1))
    return (
        (scale * moved_x).to(x.dtype) if need_x else x.new_empty(0),
        (scale * moved_y[:-1]).to(y.dtype) if need_y else y.new_empty(0),
        (widened(x) * moved_x).sum() if need_scale else scale.new_empty(0),
    )


def _blocks(sampled: Sampled) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
    """Yield some rows of x at a time: which, themselves, the rows they name, which of these are absent, their places.

    Absent rows are zero, and wrong ones NaN.
    """
    x, y, index, _ = sampled
    spare = torch.cat([widened(y), widened(y).new_full((1, y.shape[1]), torch.nan)])
    size = max(1, NUMBERS // max(1, index.shape[1] * x.shape[1]))
    for first in range(0, x.shape[0], size):
        here = slice(first, first + size)
        of_here = index[here].long()
        absent = of_here == -1
        target = torch.where((of_here >= 0) & (of_here < y.shape[0]), of_here, y.shape[0])
        yield here, widened(x[here]), spare[target].masked_fill(absent[:, :, None], 0), absent, target
