# SPDX-License-Identifier: Apache-2.0
"""Reduce losses to one number, and spread its gradient, inside the autograd node that computes them.

    mean   sum_i l_i / N          g_i = g / N
    sum    sum_i l_i              g_i = g

A node of its own would cost more than its arithmetic at small N. Where there are several ranks, N counts the rows of
all of them and both values are multiplied by the number of ranks. The mean over ranks of the returned values is then
the whole batch's value, even if ranks hold different numbers of rows.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.distributed import Shard


def reduced(losses: Tensor, reduction: str, shard: Shard) -> Tensor:
    """Reduce losses ``(N,)`` to a 0-dim tensor; "none" returns them as they are."""
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum() * shard.ranks
    # We divide before we add: the sum of large losses may overflow where their mean does not.
    return (losses * (shard.ranks / shard.total(losses.shape[0]))).sum()


def each(grad: Tensor, count: int, reduction: str, shard: Shard) -> Tensor:
    """Turn the gradient of `reduced` into that of each of ``count`` losses: ``(N,)``, or 0-dim if all have the same."""
    if reduction == "mean":
        grad = grad / shard.total(count)
    return grad if shard.ranks == 1 or reduction == "none" else grad * shard.ranks
