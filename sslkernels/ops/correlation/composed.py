# SPDX-License-Identifier: Apache-2.0
"""Compute second moments of the columns of one or two views, their losses and gradients, from the family's other ops.

    a = (z0 - mean0) * scale0, b likewise of z1;  C = a^T b
    squares_v = sum_n (z_v - mean_v)^2,  diagonal = sum_n a b,  gap = sum (z0 - z1)^2,  off = sum_(i != j) C_ij^2

Below, g_x is the gradient of x. Every sum over rows has a closed form, so that one pass over them is enough:
    da    = 2 g_off off(C) b  +  g_diagonal b                (each view with itself: 4 g_off off(C) a)
    dz    = scale da  +  through s a  +  2 g_squares (z - mean)  +  2 g_gap (z0 - z1),     s_j = sum_n da_nj a_nj
``through`` carries the gradient of the scale, which is a function of the variance. The gradient of the mean vanishes,
because the columns of b are centred. We form off(C) b on the smaller side (docs/design/correlation.md):
    features   C itself, D x D
    samples    C b^T = a (b b^T): N x N matrices; the share of C's diagonal is subtracted by means of ``diagonal``

Squares of squares overflow fp32 where rows do not. So numbers per column are fp64, and losses use them in fp64.
Kernels see columns near 1: if the loss does not standardise them, powers of two do (`Units`). The coefficients that
they see are multiplied out before they are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard, summed
from sslkernels.ops.correlation import ranks
from sslkernels.ops.correlation import schema as correlation
from sslkernels.ops.correlation.schema import Coefficients, Columns, Energy, Formula, Products, Scaling
from sslkernels.ops.dtypes import wide


class Where(NamedTuple):
    """Say where rows are, and what computes."""

    shard: Shard
    shared: bool  # True if the ranks of the shard share means and variances
    backend: str


class Moments(NamedTuple):
    """Hold moments over the rows of all ranks of the shard, in fp64."""

    squares: Tensor  # (V, D): sum of (z - mean)^2 over rows
    diagonal: Tensor  # (D,): sum of a b over rows if the views are crossed, else (0,)
    gap: Tensor  # (): sum of (z0 - z1)^2 over everything
    off: Tensor  # sum of squares off the diagonal: (1,) of a^T b, (V,) of a^T a and b^T b, (0,) of nothing


class Slopes(NamedTuple):
    """Hold derivatives with respect to the `Moments`; None stands for zeros."""

    squares: Tensor | None = None
    diagonal: Tensor | None = None
    gap: Tensor | None = None
    off: Tensor | None = None


class Kept(NamedTuple):
    """Hold what the gradient needs of the moments. Names are those of `moments`."""

    z0: Tensor
    z1: Tensor | None
    mean: Tensor
    columns: Tensor
    scale: Tensor | None
    each: Tensor | None
    outer: Tensor | None
    through: Tensor | None
    own_diagonal: Tensor
    diagonal: Tensor
    matrix: Tensor | None
    energies: Tensor | None
    every0: Tensor | None
    every1: Tensor | None


def loss(
    z0: Tensor,
    z1: Tensor | None,
    scaling: Scaling,
    energy: Energy,
    formula: Formula,
    need0: bool,
    need1: bool,
    where: Where,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a loss of the moments and its gradients; see the op of this name.

    Every rank has the same value.
    """
    found, kept = moments(z0, z1, True, scaling, energy, where)
    value, slopes = evaluated(formula, found, scaling, where.shard.total(z0.shape[0]))
    value = value.to(wide(z0.dtype))
    if not (need0 or need1):
        return value, kept.mean.new_empty(0), kept.mean.new_empty(0)
    return value, *gradients(kept, energy, slopes, need0, need1, wide(z0.dtype), where)


def evaluated(formula: Formula, found: Moments, scaling: Scaling, rows: int) -> tuple[Tensor, Slopes]:
    """Return the formula's value, and its derivatives with respect to the moments."""
    squares, diagonal, gap, off = found
    features = squares.shape[1]
    count = rows - 1 if scaling.eps is None else rows
    g_gap = formula.gap / (rows * features)
    g_off = formula.off / count**2 / features**formula.power
    value, slopes = g_gap * gap, Slopes()
    if formula.gap:
        slopes = slopes._replace(gap=gap.new_full((), g_gap))
    if off.numel():
        value = value + g_off * off.sum()
        slopes = slopes._replace(off=off.new_full(off.shape, g_off))
    if diagonal.numel():
        missing = 1 - diagonal / rows
        value = value + formula.agreement * missing.square().sum()
        slopes = slopes._replace(diagonal=missing * (-2 * formula.agreement / rows))
    if formula.hinge:
        deviation = (squares / (rows - 1) + formula.hinge_eps).sqrt()
        missing = torch.relu(1 - deviation)  # passes a NaN on, and clamp's derivative does not
        value = value + formula.hinge / features * missing.sum()
        push = -0.5 * formula.hinge / features / (rows - 1) / deviation
        slopes = slopes._replace(squares=torch.where(deviation >= 1, 0, push))
    return value, slopes


def moments(
    z0: Tensor, z1: Tensor | None, centre: bool, scaling: Scaling, energy: Energy, where: Where
) -> tuple[Moments, Kept]:
    """Compute the moments, and what their gradient needs."""
    (kind, side, dtype), (shard, shared, backend) = energy, where
    cross = kind == "cross"
    mean, squares, products, gap = correlation.moments(z0, z1, centre, backend)
    rows = shard.total(z0.shape[0]) if shared else z0.shape[0]
    if shared:
        mean, squares, products, gap = ranks.merged(z0.shape[0], mean, squares, products, gap, centre, shard)
    scale, through = _scale_of(squares, rows, scaling)
    # Both are sums of a b, or of a a for each view. ``own_diagonal`` sums over the rows that share statistics,
    # ``diagonal`` over all rows.
    own_diagonal = products[None] if cross else squares
    if scale is not None:
        own_diagonal = own_diagonal * (scale[:1] * scale[1:] if cross else scale * scale)
    diagonal = own_diagonal
    if not shared:
        diagonal, gap = summed(diagonal, shard), summed(gap, shard)
    exact = diagonal[0] if cross else squares.new_empty(0)
    units = _units_of(squares, side) if scale is None and kind != "none" else None
    # Kernels multiply by ``standard`` the columns that form the matrix, and by ``columns`` those that the backward
    # multiplies with it.
    each = scale if units is None else units.columns
    columns = torch.ones_like(squares, dtype=mean.dtype) if each is None else each.to(mean.dtype)
    standard = columns
    if units is not None and side == "samples":
        standard = units.matrix.to(mean.dtype).repeat(1, columns.shape[1])
    matrix = energies = every0 = every1 = None
    off = squares.new_empty(0)
    if kind != "none":
        mine = Columns(z0, z1, mean, standard)
        form = Products(cross, side, dtype, 0, z0.shape[0])
        if shard.ranks == 1:
            matrix = correlation.matrix(mine, form, backend)
            energies = correlation.energies(matrix, matrix, cross, side, backend)
            totals = energies
        elif side == "features":
            of_mine = correlation.matrix(mine, form, backend)
            matrix = summed(of_mine, shard)
            totals = correlation.energies(matrix, matrix, cross, side, backend)
            energies = totals if shared else correlation.energies(matrix, of_mine, cross, side, backend)
        else:
            every0, every1 = ranks.gathered_columns(z0, z1, mean, columns, shard)
            between = (None, None) if units is None else (torch.zeros_like(mean), standard / columns)
            form = Products(cross, side, dtype, shard.start, z0.shape[0])
            matrix = correlation.matrix(Columns(every0, every1, *between), form, backend)
            totals = summed(correlation.energies(matrix, matrix, cross, side, backend), shard)
        sums = totals[:1] if cross else totals  # the rows of C have the energy of its columns
        off = sums.sum(1)
        if units is not None:
            off = off * units.lift(cross)
        if side == "samples":  # on this side the sum counts the diagonal of C too
            if dtype != mean.dtype:  # what is taken off must be rounded as the total is
                diagonal = _rounded_diagonal(mine, cross, dtype)
                if units is not None:
                    diagonal = diagonal / (units.matrix.prod(0) if cross else units.matrix.square())
            off = (off - diagonal.square().sum(1)).clamp_min(0)
    outer = scale if units is None else units.outer(cross)
    kept = Kept(
        z0, z1, mean, columns, scale, each, outer, through, own_diagonal, diagonal, matrix, energies, every0, every1
    )
    return Moments(squares, exact, gap, off), kept


def gradients(
    kept: Kept, energy: Energy, slopes: Slopes, need0: bool, need1: bool, dtype: torch.dtype, where: Where
) -> tuple[Tensor, Tensor]:
    """Return the gradients of this rank's rows in ``dtype``, from the ``slopes`` of the moments of all rows.

    None stands for a slope of zero. Every rank has the same slopes, or all of them are summed. The sums over rows of
    `finished` are the only numbers that ranks exchange here.
    """
    z0, z1, mean, columns, scale, each, outer, through, own_diagonal, diagonal, matrix, energies, every0, every1 = kept
    (kind, side, compute), (shard, shared, backend) = energy, where
    cross = kind == "cross"
    g_squares, g_diagonal, g_gap, g_off = slopes
    pull = None if g_gap is None else 2 * g_gap
    if g_off is None:
        matrix = every0 = None
    # We form da = factor off(C) b + along b and s = sum_n da a; b is a unless the views are crossed.
    along = torch.zeros_like(own_diagonal) if g_diagonal is None or not cross else g_diagonal.expand(2, -1)
    s: Tensor | float = 0.0
    within = None  # ``through``, if only the kernel knows the sum that it is multiplied with
    from_rows: Sequence[Tensor | None] = (None, None)
    own = None if g_squares is None else 2 * g_squares
    if matrix is not None:
        assert g_off is not None and outer is not None
        factor = (2 * g_off).expand(2)[:, None] if cross else 4 * g_off[:, None]
        outer = outer * factor
        if side == "samples":
            along = along - factor * diagonal
            within = None if through is None or every0 is not None else through * factor
        elif through is not None:
            s = factor * energies
    if every0 is not None:
        da = correlation.backward(
            Columns(every0, every1, None, None),
            matrix,
            Products(cross, side, compute, shard.start, z0.shape[0]),
            Coefficients(None, None, None, None, None),
            need0,
            need1,
            mean.dtype,
            backend,
        )
        (outer,) = _rounded(mean.dtype, outer)
        from_rows, sums = ranks.finished(z0.shape[0], da, (every0, every1), outer, shard)
        if through is not None:
            s = factor * (summed(sums, shard) if shared else sums)
        matrix = None
    mixed = None
    if cross:
        assert each is not None
        mixed = scale * along if scale is not None else along / each.flip(0)
    elif side == "samples" and g_off is not None:
        squared = along if scale is None else scale * scale * along
        own = squared if own is None else own + squared
    if own is not None and each is not None:
        own = own / each
    if through is not None:
        turned = through * (s + along * own_diagonal)
        own = turned if own is None else own + turned
    if own is None:
        own = own_diagonal.new_zeros(columns.shape)
    outer, own, mixed, within = _rounded(mean.dtype, outer, own, mixed, within)
    pull = None if pull is None else pull.to(mean.dtype)
    coefficients = Coefficients(None if matrix is None else outer, own, mixed, pull, within)
    products = Products(cross, side, compute, 0, z0.shape[0])
    of_rows = Columns(z0, z1, mean, columns)
    dz = correlation.backward(of_rows, matrix, products, coefficients, need0, need1, dtype, backend)
    dz0, dz1 = (mine if more is None else (mine + more).to(dtype) for mine, more in zip(dz, from_rows, strict=True))
    return dz0, dz1


def _rounded_diagonal(columns: Columns, cross: bool, dtype: torch.dtype) -> Tensor:
    """Return the diagonal of C (1 or V, D), in fp64, that columns have once they are rounded to ``dtype``."""
    z0, z1, mean, scale = columns
    assert mean is not None and scale is not None
    centred = [
        z.to(mean.dtype) - middle[0] - middle[1] for z, middle in zip((z0, z1), mean, strict=False) if z is not None
    ]
    rounded = [(z * factor).to(dtype).double() for z, factor in zip(centred, scale, strict=True)]
    return (rounded[0] * rounded[1]).sum(0)[None] if cross else torch.stack([a.square().sum(0) for a in rounded])


def _scale_of(squares: Tensor, rows: int, scaling: Scaling) -> tuple[Tensor | None, Tensor | None]:
    """Return the columns' scale, and ``through = 2 (d scale / d variance) / (scale^2 rows)``, (V, D) each."""
    if scaling.eps is None:
        return None, None
    divisor = rows - 1 if scaling.unbiased else rows
    variance = squares / divisor
    if not scaling.outside:
        scale = _inverse((variance + scaling.eps).sqrt(), scaling.eps)
        return scale, scale / -divisor
    deviation = variance.sqrt()
    # A constant column has s = 0. Its standard deviation has no derivative, and 0 is as good as any number.
    through = torch.where(deviation == 0, 0, -1 / (divisor * deviation))
    return _inverse(deviation + scaling.eps, scaling.eps), through


def _inverse(x: Tensor, eps: float) -> Tensor:
    return 1 / x if eps > 0 else torch.where(x == 0, 1, 1 / x)


class Units(NamedTuple):
    """Hold powers of two that bring columns near 1, for a loss that does not standardise them.

    One unit serves all columns of K: a small column beside a large one adds nothing to it. That column's gradient, K a,
    does not vanish, so every column has a unit of its own there. In C no column hides another, and one unit is enough.
    """

    columns: Tensor  # (V, D): for columns that the backward multiplies with the matrix
    matrix: Tensor  # (V, 1): for columns that form the matrix

    def lift(self, cross: bool) -> Tensor:
        """Return the factors (1,) or (V,) that undo the units in the energies."""
        lift = self.matrix[:, 0] ** -2
        return lift.prod(0, keepdim=True) if cross else lift * lift

    def outer(self, cross: bool) -> Tensor:
        """Return the factors (V, D) that undo the units in da."""
        return (self.matrix.flip(0) if cross else self.matrix) ** -2 / self.columns


def _units_of(squares: Tensor, side: str) -> Units:
    sizes = squares if side == "samples" else squares.amax(1, keepdim=True)
    # Zeros and infinities may have any unit that fp32 holds. The unit of NaN is NaN.
    units = torch.exp2((torch.log2(sizes.clamp(2.0**-240, 2.0**240)) * -0.5).round_())
    if side == "samples":
        return Units(units, units.amin(1, keepdim=True))
    return Units(units.repeat(1, squares.shape[1]), units)


def _rounded(dtype: torch.dtype, *coefficients: Tensor | None) -> Iterator[Tensor | None]:
    """Round coefficients to the dtype that kernels read. Infinities become the largest number, which times 0 is 0."""
    largest = torch.finfo(dtype).max
    present = torch.stack([x for x in coefficients if x is not None]).clamp(-largest, largest).to(dtype).unbind()
    given = iter(present)
    return (None if x is None else next(given) for x in coefficients)
