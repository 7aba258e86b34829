# SPDX-License-Identifier: Apache-2.0
"""Run the sigmoid family in plain PyTorch: the specification of every other backend, and a backend of its own.

U_ij = scale * <x_i, y_j> + bias is summed in fp32 (fp64 for fp64 input) and stored whole, in O(N*M) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.sigmoid.schema import Needs, Pairs
from sslkernels.ops.softplus import softplus


def forward(pairs: Pairs) -> Tensor:
    """Return sum_j softplus(sign_ij * U_ij); the sign is -1 for a pair that belongs together, and 1 else."""
    return softplus(_sign(pairs) * _logits(pairs)).sum(1)


def backward(pairs: Pairs, weights: Tensor, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """G_ij = weights_i sign_ij sigmoid(sign_ij U_ij): dx = scale G y, dy = scale G^T x, and its sums."""
    sign, x, y = _sign(pairs), widened(pairs.x), None if pairs.y is None else widened(pairs.y)
    keys = x if y is None else y
    slopes = weights[:, None] * sign * torch.sigmoid(sign * _logits(pairs))
    moved = slopes @ keys + slopes.T @ x if y is None else slopes @ keys
    return (
        pairs.scale * moved if needs.need_x else weights.new_empty(0),
        pairs.scale * (slopes.T @ x) if needs.need_y and y is not None else weights.new_empty(0),
        (slopes * (x @ keys.T)).sum() if needs.need_scale else weights.new_empty(0),
        slopes.sum() if needs.need_bias else weights.new_empty(0),
    )


def loss(pairs: Pairs, share: float, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    sums = forward(pairs)
    return (share * sums).sum(), *backward(pairs, torch.full_like(sums, share), needs)


def _logits(pairs: Pairs) -> Tensor:
    x = widened(pairs.x)
    y = x if pairs.y is None else widened(pairs.y)
    return pairs.scale * (x @ y.T) + pairs.bias


def _sign(pairs: Pairs) -> Tensor:
    rows, columns = pairs.x.shape[0], (pairs.x if pairs.y is None else pairs.y).shape[0]
    sign = torch.ones(rows, columns, dtype=pairs.scale.dtype, device=pairs.x.device)
    return sign - 2 * torch.eye(rows, columns, dtype=sign.dtype, device=sign.device) if pairs.paired else sign
