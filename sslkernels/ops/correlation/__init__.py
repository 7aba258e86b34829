# SPDX-License-Identifier: Apache-2.0
"""Second moments of columns, and the energy off the diagonal of their correlation matrix, which need not exist."""

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
    """Of columns ``a = (z0 - mean) * scale`` and ``b``, likewise of z1."""

    squares: Tensor  # (V, D): sum over rows of (z - mean)^2
    diagonal: Tensor  # (D,): sum over rows of a b, where a and b are crossed
    gap: Tensor  # (): sum over everything of (z0 - z1)^2
    off: Tensor  # (1,) of a^T b or (V,) of a^T a, b^T b: sum of squares off the diagonal


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
    """The moments that every loss of the family is made of; ``energy`` is "cross", "each" (view) or "none"."""
    if z1 is not None:
        z0, z1 = promoted(z0, z1)
    side = side or choose_side(shard.total(z0.shape[0]), z0.shape[1])
    # On the side of samples the diagonal of C is taken off a total: operands rounded to 16 bits would be felt in all of
    # it, and one wide column could hide the rest. Products run in fp32 there.
    dtype = compute_dtype(z0) if side == "features" else wide(z0.dtype)
    chosen = CORRELATION.choose(z0.device, z0.dtype, backend)
    return Moments(*ColumnMoments.apply(z0, z1, Asked(energy, centre, scaling, side, dtype, shard, shared, chosen)))


def choose_side(rows: int, features: int) -> str:
    """The side with less to multiply: 6*N^2*D operations for N x N matrices, 6*N*D^2 for D x D."""
    return "samples" if rows < features else "features"
