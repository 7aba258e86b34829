# SPDX-License-Identifier: Apache-2.0
"""Log-sum-exp of this rank's rows against every rank's, with the whole gradient of its own rows.

A row of x is an anchor here and a key of every anchor of the group. Its gradient as a key needs of the other ranks only
their lse and its gradient, 2N floats, where a reduce-scatter would move N*D. Cost per rank with n of N rows: 2*n*N*D
operations forward and 4*n*N*D backward, for each side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sslkernels.backends import choose
from sslkernels.distributed import Shard, all_rows
from sslkernels.ops.similarity.autograd import similarity_backward, similarity_forward


def logsumexp_across_ranks(
    x: Tensor, y: Tensor | None, scale: Tensor, exclude: Tensor, shard: Shard, backend: str | None
) -> Any:
    """Rows of x against all rows of y (and of y against all of x); with ``y=None``, of x against all of x.

    ``exclude`` holds global columns and must leave out symmetric pairs, as own rows and positives are.
    """
    name = choose(x.device, x.dtype, backend)
    if y is None:
        return _SelfAcrossRanks.apply(x, scale, exclude, shard, name)
    return _PairAcrossRanks.apply(x, y, scale, exclude, shard, name)


class _SelfAcrossRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, exclude: Tensor, shard: Shard, backend: str) -> Tensor:
        keys = all_rows(x, shard)
        rows, _, _ = similarity_forward(x, keys, scale, exclude, False, False, backend)
        ctx.save_for_backward(x, keys, scale, exclude, rows)
        ctx.shard, ctx.backend = shard, backend
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, keys, scale, exclude, rows = ctx.saved_tensors
        columns, columns_grad = _everyone(rows, grad, ctx.shard)
        dx, _, dscale = similarity_backward(
            x, keys, scale, exclude, rows, grad.contiguous(), columns, columns_grad, True, False, ctx.backend
        )
        # Each pair stands in two ranks' sums, once as a row and once as a column: half from each.
        return dx, dscale / 2 if ctx.needs_input_grad[1] else None, None, None, None


class _PairAcrossRanks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, exclude: Tensor, shard: Shard, backend: str
    ) -> tuple[Tensor, Tensor]:
        all_x, all_y = all_rows(x, shard), all_rows(y, shard)
        rows, _, _ = similarity_forward(x, all_y, scale, exclude, False, False, backend)
        columns, _, _ = similarity_forward(y, all_x, scale, exclude, False, False, backend)
        ctx.save_for_backward(x, y, all_x, all_y, scale, exclude, rows, columns)
        ctx.shard, ctx.backend = shard, backend
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows_grad: Tensor, columns_grad: Tensor) -> Any:
        x, y, all_x, all_y, scale, exclude, rows, columns = ctx.saved_tensors
        rows_grad, columns_grad = rows_grad.contiguous(), columns_grad.contiguous()
        everyones_rows = _everyone(rows, rows_grad, ctx.shard)
        everyones_columns = _everyone(columns, columns_grad, ctx.shard)
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        dx = dy = dscale = None
        if need_x or need_scale:
            dx, _, dscale = similarity_backward(
                x, all_y, scale, exclude, rows, rows_grad, *everyones_columns, True, False, ctx.backend
            )
        if need_y:
            dy, _, _ = similarity_backward(
                y, all_x, scale, exclude, columns, columns_grad, *everyones_rows, True, False, ctx.backend
            )
        return dx if need_x else None, dy, dscale if need_scale else None, None, None, None


def _everyone(lse: Tensor, grad: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
    both = all_rows(torch.stack((lse, grad), 1), shard)
    return both[:, 0].contiguous(), both[:, 1].contiguous()
