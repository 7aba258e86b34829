# SPDX-License-Identifier: Apache-2.0
"""Compute second moments of columns, and the energy off the diagonal of their correlation matrix.

The D x D matrix itself is formed only if there are no fewer rows than features, or if the caller asks for it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.correlation.autograd import Asked, ColumnMoments, Scaling
from sslkernels.ops.correlation.schema import CORRELATION
from sslkernels.ops.dtypes import compute_dtype, promoted, wide

__all__ = ["CORRELATION", "SIDES", "Moments", "Scaling", "choose_side", "column_moments"]

SIDES = ("samples", "features")


class Moments(NamedTuple):
    """Hold the moments of the columns ``a = (z0 - mean) * scale`` of z0, and of ``b``, which is made of z1 alike."""

    squares: Tensor  # (V, D): sum of (z - mean)^2 over rows
    diagonal: Tensor  # (D,): sum of a b over rows if a and b are crossed
    gap: Tensor  # (): sum of (z0 - z1)^2 over everything
    off: Tensor  # sum of squares off the diagonal: (1,) of a^T b, or (V,) of a^T a and b^T b


def column_moments(
    z0: Tensor,
    z1: Tensor | None,
    energy: str,
    *,
    centre: bool = True,
    scaling: Scaling | None = None,
    side: str | None = None,
    shard: Shard = Shard.alone,
    shared: bool = True,
    backend: str | None = None,
) -> Moments:
    """Compute the moments from which every loss of the family is made.

    ``energy`` is "cross" (of both views), "each" (of each view with itself) or "none".
    """
    if z1 is not None:
        z0, z1 = promoted(z0, z1)
    side = side or choose_side(shard.total(z0.shape[0]), z0.shape[1])
    # On the side of samples we subtract the diagonal of C from a total. If operands were rounded to 16 bits, that error
    # would be felt in the whole total, and one wide column could hide the rest. So products run in fp32 there.
    dtype = compute_dtype(z0) if side == "features" else wide(z0.dtype)
    chosen = CORRELATION.choose(z0.device, z0.dtype, backend)
    return Moments(*ColumnMoments.apply(z0, z1, Asked(energy, centre, scaling, side, dtype, shard, shared, chosen)))


def choose_side(rows: int, features: int) -> str:
    """Choose the side with less to multiply: N x N matrices take 6*N^2*D operations, D x D matrices 6*N*D^2."""
    return "samples" if rows < features else "features"
