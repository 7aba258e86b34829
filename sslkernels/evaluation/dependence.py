# SPDX-License-Identifier: Apache-2.0
"""Measure how much two parts of a sample have to do with each other, linearly: as they are, and given the label."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import ROWS, check_device, check_number, check_tensor, shape_of
from sslkernels.evaluation.moments import BLOCK, column_means, features, in_range

# Eigenvalues below this share of the largest are rounding.
LEAST_SHARE = 1e-12


class CanonicalCorrelations(NamedTuple):
    """The result of `cca`."""

    correlations: Tensor
    mean: float


def cca(x1: Tensor, x2: Tensor, ridge: float = 1e-4) -> CanonicalCorrelations:
    """Find how well linear maps of two parts can agree (canonical correlation analysis, Hotelling 1936).

    The singular values of ``S_11^-1/2 S_12 S_22^-1/2``, with S the covariances of the centred rows: 1 where a direction
    of one part is a linear map of the other, 0 where all are uncorrelated. A pretext task that predicts x2 from x1
    learns the directions that correlate (Lee et al. 2021).

    Args:
        x1, x2: ``(N, D1)`` and ``(N, D2)``, the same N samples, ``N >= 2``.
        ridge: added to the diagonals of S_11 and S_22, as a share of their mean variance. Without it, ``ridge=0``,
            directions of no variance are left out.

    Returns:
        ``correlations``: ``(min(D1, D2),)``, float64, largest first, and their ``mean``. Both are NaN if a number is
        not finite. N rows of independent parts have correlations of up to about ``(sqrt(D1) + sqrt(D2)) / sqrt(N)``,
        and with ``N <= D1 + D2`` some are 1 whatever the parts: pass many more rows than features.

    Cost: ``2*N*(D1 + D2)^2`` operations and decompositions of ``O(D^3)``; ``O((D1 + D2)^2)`` memory.

    >>> import torch
    >>> from sslkernels.evaluation import cca
    >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> [round(each, 3) for each in cca(x, x @ torch.tensor([[2.0, 0.0], [1.0, 1.0]])).correlations.tolist()]
    [1.0, 1.0]
    """
    function = "cca"
    first, second = _parts(function, x1, x2)
    ridge = check_number(function, "ridge", ridge, least=0)
    size = first.shape[1]
    whole = _covariance(first, second)
    values = _normalised(whole, whole[:size, size:], ridge)
    return CanonicalCorrelations(values, float(values.mean()))


class Dependence(NamedTuple):
    """The result of `conditional_independence`."""

    given_y: float
    without_y: float


def conditional_independence(x1: Tensor, x2: Tensor, y: Tensor, ridge: float = 1e-4) -> Dependence:
    """Measure what two parts still have in common once the label is known (Lee et al. 2021): 0 where nothing, linearly.

    ``|S_11^-1/2 S_12.y S_22^-1/2|``, the Frobenius norm, with the partial covariance
    ``S_12.y = S_12 - S_1y S_yy^+ S_y2`` of the centred rows. Predicting x2 from x1 learns features of the label alone
    where this is small, and few labels suffice then.

    Args:
        x1, x2: ``(N, D1)`` and ``(N, D2)``, the same N samples, ``N >= 2``.
        y: labels ``(N,)``, int64, of which each class has a column, or numbers ``(N, K)``.
        ridge: as in `cca`.

    Returns:
        ``given_y``, and the norm ``without_y``, of S_12 itself, to compare it with: the root of the sum of squares of
        `cca`. Both are NaN if a number is not finite. Independent parts of N rows have about ``sqrt(D1*D2 / N)``.

    Cost: ``2*N*(D1 + D2 + K)^2`` operations and decompositions of ``O(D^3)``; ``O((D1 + D2 + K)^2)`` memory.

    >>> import torch
    >>> from sslkernels.evaluation import conditional_independence
    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> x1 = labels[:, None] + torch.tensor([[0.1, -0.1]]).repeat(1, 4).T
    >>> x2 = labels[:, None] + torch.tensor([[0.1, 0.1, -0.1, -0.1]]).repeat(1, 2).T
    >>> [round(each, 3) for each in conditional_independence(x1, x2, labels)]
    [0.0, 0.961]
    """
    function = "conditional_independence"
    first, second = _parts(function, x1, x2)
    given, classes = _given(function, y, first)
    ridge = check_number(function, "ridge", ridge, least=0)
    whole = _covariance(first, second, given, classes)
    size, inputs = first.shape[1], first.shape[1] + second.shape[1]
    if not whole.isfinite().all():
        return Dependence(float("nan"), float("nan"))
    inverse = torch.linalg.pinv(whole[inputs:, inputs:], rtol=LEAST_SHARE, hermitian=True)
    explained = whole[:size, inputs:] @ inverse @ whole[inputs:, size:inputs]
    inputs_alone = whole[:inputs, :inputs]
    given_y, without_y = (
        float(torch.linalg.vector_norm(_normalised(inputs_alone, cross, ridge)))
        for cross in (whole[:size, size:inputs] - explained, whole[:size, size:inputs])
    )
    return Dependence(given_y, without_y)


def _parts(function: str, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    first, second = features(function, "x1", x1, least=2), features(function, "x2", x2, least=2)
    if len(first) != len(second):
        raise ValueError(
            f"{function}: x1 has shape {shape_of(first)} and x2 {shape_of(second)}; both need the same samples."
        )
    check_device(function, "x2", second, "x1", first)
    return in_range(first)[0], in_range(second)[0]


def _given(function: str, y: Tensor, first: Tensor) -> tuple[Tensor, int]:
    """Check labels or numbers, and count the classes: labels are numbered anew from 0, numbers have no classes."""
    accepted = f"(N,), int64, or {ROWS}"
    given, classes = check_tensor(function, "y", y, accepted).detach(), 0
    check_device(function, "y", given, "x1", first)
    if given.dtype == torch.int64 and given.dim() == 1:
        names, given = given.unique(return_inverse=True)
        classes = len(names)
    else:
        given, _ = in_range(features(function, "y", given, least=2, expected=accepted))
    if len(given) != len(first):
        raise ValueError(
            f"{function}: y has shape {shape_of(given)} and x1 {shape_of(first)}; pass what is known of each sample."
        )
    return given, classes


def _covariance(first: Tensor, second: Tensor, given: Tensor | None = None, classes: int = 0) -> Tensor:
    """The covariance of all columns side by side, in float64; a class is a column of ones and zeros."""
    means = [column_means(first), column_means(second)]
    if given is not None:
        means += [given.bincount(minlength=classes).double() / len(given) if classes else column_means(given)]
    mean = torch.cat(means)
    total = mean.new_zeros(len(mean), len(mean))
    step = max(1, BLOCK // len(mean))
    for start in range(0, len(first), step):
        some = slice(start, start + step)
        columns = [first[some].double(), second[some].double()]
        if given is not None:
            columns += [F.one_hot(given[some], classes).double() if classes else given[some].double()]
        part = torch.cat(columns, 1) - mean
        total.addmm_(part.T, part)
    return total / len(first)


def _normalised(covariance: Tensor, cross: Tensor, ridge: float) -> Tensor:
    """The singular values of ``S_11^-1/2 cross S_22^-1/2``, largest first."""
    if not covariance.isfinite().all():
        return cross.new_full((min(cross.shape),), torch.nan)
    size = len(cross)
    left, right = _inverse_root(covariance[:size, :size], ridge), _inverse_root(covariance[size:, size:], ridge)
    return torch.linalg.svdvals(left.T @ cross @ right)


def _inverse_root(covariance: Tensor, ridge: float) -> Tensor:
    """A matrix R with ``R R^T`` the inverse of ``covariance + ridge * its mean variance * I`` where it has variance."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > LEAST_SHARE * values[-1]
    shifted = values + ridge * values.clamp_min(0).mean()
    return vectors * torch.where(kept, shifted, torch.inf).rsqrt()
