# SPDX-License-Identifier: Apache-2.0
"""Compute second moments of columns, and the energy off the diagonal of their correlation matrix.

The D x D matrix itself is formed only if there are no fewer rows than features, or if the caller asks for it.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.correlation.autograd import Asked, ColumnMoments, MomentsAsked, compute
from sslkernels.ops.correlation.composed import Moments, Where
from sslkernels.ops.correlation.schema import CORRELATION, Energy, Formula, Scaling
from sslkernels.ops.dtypes import compute_dtype, promoted, wide
from sslkernels.ops.one_call import in_one_call

__all__ = ["CORRELATION", "SIDES", "Formula", "Moments", "Scaling", "choose_side", "column_loss", "column_moments"]

SIDES = ("samples", "features")
AS_THEY_ARE = Scaling(None)


def column_loss(
    z0: Tensor,
    z1: Tensor | None,
    energy: str,
    formula: Formula,
    *,
    scaling: Scaling = AS_THEY_ARE,
    side: str | None = None,
    shard: Shard = Shard.alone,
    shared: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Compute a loss of the moments of centred columns, whose gradient comes from the same call.

    ``energy`` is "cross" (of both views), "each" (of each view with itself) or "none".
    """
    z0, z1, wanted, where = _prepared(z0, z1, energy, side, shard, shared, backend, scaling, whole=True)
    return in_one_call(compute, Asked(formula, scaling, wanted, where), z0, z1, alike=shard)


def column_moments(
    z0: Tensor,
    z1: Tensor | None,
    energy: str,
    *,
    centre: bool = True,
    scaling: Scaling = AS_THEY_ARE,
    side: str | None = None,
    shard: Shard = Shard.alone,
    backend: str | None = None,
) -> Moments:
    """Compute the moments themselves, for a function of them that is not a `Formula`."""
    z0, z1, wanted, where = _prepared(z0, z1, energy, side, shard, True, backend, scaling, whole=False)
    return Moments(*ColumnMoments.apply(z0, z1, MomentsAsked(centre, scaling, wanted, where)))


def choose_side(rows: int, features: int, work: tuple[int, int] = (6, 6)) -> str:
    """Choose the side with less to multiply: N x N matrices take work[0]*N^2*D operations, D x D work[1]*N*D^2."""
    of_samples, of_features = work
    return "samples" if of_samples * rows < of_features * features else "features"


def _work_of_halves(energy: str, scaling: Scaling) -> tuple[int, int]:
    """Count operations where cuBLAS multiplies 16-bit columns, as docs/design/correlation.md derives them.

    It computes both halves of symmetric matrices. K of columns that are not standardised counts twice in the backward.
    """
    return 8 if scaling.eps is not None else 12, 6 if energy == "cross" else 8


def _prepared(
    z0: Tensor,
    z1: Tensor | None,
    energy: str,
    side: str | None,
    shard: Shard,
    shared: bool,
    backend: str | None,
    scaling: Scaling,
    whole: bool,
) -> tuple[Tensor, Tensor | None, Energy, Where]:
    if z1 is not None:
        z0, z1 = promoted(z0, z1)
    chosen = CORRELATION.choose(z0.device, z0.dtype, backend)
    dtype = compute_dtype(z0)
    # A whole loss on one GPU takes the diagonal from the same rounded columns as the total.
    consistent = whole and chosen == "triton" and shard.ranks == 1
    work = _work_of_halves(energy, scaling) if consistent and dtype.itemsize == 2 else (6, 6)
    side = side or choose_side(shard.total(z0.shape[0]), z0.shape[1], work)
    # Elsewhere, on the side of samples, we subtract the exact diagonal of C from a total. If operands were rounded to
    # 16 bits, that error would be felt in the whole total, and one wide column could hide the rest. So products run
    # in fp32 there.
    if side == "samples" and not consistent:
        dtype = wide(z0.dtype)
    return z0, z1, Energy(energy, side, dtype), Where(shard, shared, chosen)
