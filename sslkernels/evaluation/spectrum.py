# SPDX-License-Identifier: Apache-2.0
"""Measure over how many directions features spread, and how fast their spectrum falls. No label is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_size
from sslkernels.evaluation.moments import (
    BLOCK,
    column_means,
    entropy_rank,
    features,
    gram,
    in_range,
    shares,
    singular_values,
    sum_of_squares,
)

# Log eigenvalues that differ by less are equal up to rounding.
EQUAL = 1e-12


def rank_me(z: Tensor) -> float:
    """Count the directions that features use (RankMe, Garrido et al. 2023, eq. 1): the higher, the better they probe.

    ``exp(-sum_k p_k log p_k)`` with ``p_k = s_k / sum(s) + 1e-7``, and s the singular values of the rows as given,
    which are not centred. It is at most min(N, D), up to the 1e-7. `feature_spread` has it without them.

    Args:
        z: rows ``(N, D)``, ``N >= 1``, in any floating-point dtype. The authors take 25,600 rows; ranks of fewer rows
            than some multiple of D are too low.

    Returns:
        The rank; 0 for zeros alone, NaN if a number is not finite.

    Cost: ``N*D^2`` operations and ``O(D^2)`` memory for float32 and narrower rows where ``N >= D``. The squares there
    change the rank by a share of 2e-6 times D at most, and by less than 1e-9 where all singular values are above 1e-4
    of the largest. Otherwise a singular value decomposition in float64: ``4*N*D*min(N, D)``, and a copy of the rows.

    >>> import torch
    >>> from sslkernels.evaluation import rank_me
    >>> round(rank_me(torch.eye(4).repeat(2, 1)), 4)
    4.0
    """
    return entropy_rank(singular_values(features("rank_me", "z", z)), 1e-7)


class PowerLaw(NamedTuple):
    """The result of `alpha_req`."""

    alpha: float
    r_squared: float


def alpha_req(z: Tensor, first: int = 1, last: int | None = None) -> PowerLaw:
    """Fit how fast the eigenvalues of the covariance fall (alpha-ReQ, Agrawal et al. 2022): near 1 is healthy.

    ``lambda_j ~ j^-alpha``: minus the slope of the least-squares line of ``log lambda_j`` over ``log j``. Well above 1,
    few directions hold the variance; near 0, all have the same, as noise has. The authors' code weighs points by 1/j,
    and ours weighs them alike.

    Args:
        z: rows ``(N, D)``, ``N >= 1``. They are centred.
        first, last: the line is fitted to eigenvalues from the first to the last of these places, which count from 1.
            By default it ends where eigenvalues are no more than the rounding of rows of that dtype.

    Returns:
        alpha, and the share of the logarithms' variance that the line explains. Look at it before alpha: where it is
        low, there is no power law. Both are NaN where fewer than two eigenvalues are left, or a number is not finite.

    Cost: as `rank_me`.

    >>> import torch
    >>> from sslkernels.evaluation import alpha_req
    >>> rows = torch.diag(torch.arange(1.0, 5.0) ** -0.5)  # variances 1, 1/2, 1/3, 1/4
    >>> round(alpha_req(torch.cat([rows, -rows])).alpha, 4)
    1.0
    """
    function = "alpha_req"
    rows, _ = in_range(features(function, "z", z))
    most = min(rows.shape)
    first = check_size(function, "first", first, most=most)
    last = most if last is None else check_size(function, "last", last, least=first, most=most)
    mean = column_means(rows)
    values = singular_values(rows, mean)
    # Rounding alone gives N x D numbers of this size singular values of up to this.
    squares = values.square().sum() + len(rows) * mean.square().sum()
    rounding = torch.finfo(rows.dtype).eps * (squares / most).sqrt()
    kept = values[first - 1 : last]
    kept = kept[~(kept <= rounding)]  # what is NaN stays
    if len(kept) < 2:
        return PowerLaw(float("nan"), float("nan"))
    x = torch.arange(first, first + len(kept), dtype=torch.float64, device=kept.device).log()
    y = 2 * kept.log()
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    total = y.square().mean()
    left = (y - slope * x).square().mean()
    return PowerLaw(-float(slope), 1.0 if total < EQUAL**2 else float(1 - left / total))


class Spectrum(NamedTuple):
    """The result of `spectrum`."""

    singular_values: Tensor
    variance: Tensor
    correlation: float


def spectrum(z: Tensor) -> Spectrum:
    """Show dimensional collapse: how the variance of features falls off, and how much the features repeat each other.

    Of the centred rows (Jing et al. 2022 plot the logarithms; Barlow Twins and VICReg fight the correlation):

    - ``singular_values``: ``(min(N, D),)``, largest first, divided by their sum.
    - ``variance``: as many; the k-th is the share of all variance in the k widest directions.
    - ``correlation``: the mean over pairs of features of ``|corr(z_i, z_j)|``. Features that are constant are left out,
      and it is NaN where fewer than two vary. Independent features of N rows have about ``0.8 / sqrt(N)``.

    Args:
        z: rows ``(N, D)``, ``N >= 1``.

    Returns:
        Tensors of float64, zeros for constant rows, and all of it NaN if a number is not finite.

    Cost: as `rank_me`, and once more ``N*D^2`` operations. The products of wide rows, ``N < D``, are
    never all stored.

    >>> import torch
    >>> from sslkernels.evaluation import spectrum
    >>> found = spectrum(torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]]))
    >>> [round(value, 4) for value in found.variance.tolist()], round(found.correlation, 4)
    ([0.8, 1.0], 0.0)
    """
    rows = features("spectrum", "z", z)
    mean = column_means(rows)
    values = singular_values(rows, mean)
    return Spectrum(shares(values), shares(values.square()).cumsum(0), _correlation(rows, mean))


def _correlation(rows: Tensor, mean: Tensor) -> float:
    deviation = sum_of_squares(rows, mean).sqrt()
    varies = deviation != 0
    count = int(varies.sum())
    if count < 2:
        return float("nan")
    scale = torch.where(varies, 1 / deviation, 0)
    total, start = scale.new_zeros(()), 0
    for part in _products(rows, mean):
        own = scale[start : start + len(part)]
        total += (part * scale * own[:, None]).abs().clamp_max(1).sum()
        start += len(part)
    return float((total - count) / (count * (count - 1)))  # each feature's correlation with itself is 1


def _products(rows: Tensor, mean: Tensor) -> Iterator[Tensor]:
    """Yield the products of columns, ``D`` of each; of wide rows some at a time, since all would not fit."""
    if len(rows) >= rows.shape[1]:
        yield gram(rows, mean)
        return
    centred = rows.double() - mean
    for part in centred.split(max(1, BLOCK // rows.shape[1]), dim=1):
        yield part.T @ centred
