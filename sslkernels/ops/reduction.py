# SPDX-License-Identifier: Apache-2.0
"""Losses to one number, and back, inside the node that computes them: at small N a node costs more than its arithmetic.

    mean   sum_i l_i / N          g_i = g / N
    sum    sum_i l_i              g_i = g

Under ranks both are multiplied by their number, and N is that of all: the mean over ranks of what is returned is then
the whole batch's value, uneven shards included.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.distributed import Shard


def reduced(losses: Tensor, reduction: str, shard: Shard) -> Tensor:
    """Losses ``(N,)`` as they are for "none", else 0-dim."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum() * shard.ranks
    # Divided before they are added: the sum of large losses may leave the range where their mean does not.
    return (losses * (shard.ranks / shard.total(losses.shape[0]))).sum()


def each(grad: Tensor, count: int, reduction: str, shard: Shard) -> Tensor:
    """The gradient of each of ``count`` losses, ``(N,)`` or 0-dim for all, given that of `reduced`."""
    if reduction == "mean":
        grad = grad / shard.total(count)
    return grad if shard.ranks == 1 or reduction == "none" else grad * shard.ranks
