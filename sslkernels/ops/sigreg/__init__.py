# SPDX-License-Identifier: Apache-2.0
"""Compute the empirical characteristic function of projections at equally spaced knots, without a tensor over them."""

from __future__ import annotations

from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.dtypes import wide
from sslkernels.ops.sigreg.autograd import CharacteristicSums
from sslkernels.ops.sigreg.schema import SIGREG

__all__ = ["SIGREG", "characteristic_sums"]


def characteristic_sums(
    p: Tensor, step: float, knots: int, *, shard: Shard = Shard.alone, backend: str | None = None
) -> Tensor:
    """Sum ``cos(k step p)`` and ``sin(k step p)`` over the N samples of all ranks, for k = 0 to ``knots - 1``.

    ``p`` is (M, N, S) or (N, S); the sums are (M, 2, T, S) or (2, T, S), cosines first, in fp32 (fp64 for fp64 ``p``).
    """
    views = p.to(wide(p.dtype))
    if p.dim() == 2:
        views = views[None]
    sums = CharacteristicSums.apply(views, step, knots, shard, SIGREG.choose(p.device, views.dtype, backend))
    return sums[0] if p.dim() == 2 else sums
