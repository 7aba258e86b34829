# SPDX-License-Identifier: Apache-2.0
"""Measure the information in features: entropy, the length of their code, and what one view tells of the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkernels.arguments import check_number, check_pair, check_temperature
from sslkernels.evaluation.directions import lengthened
from sslkernels.evaluation.moments import features, in_range, shares, singular_values
from sslkernels.functional import info_nce


def matrix_entropy(z: Tensor, alpha: float = 1.01) -> float:
    """Measure the entropy of features without their density (Giraldo et al. 2015): Renyi's, of the rows' Gram matrix.

    ``log tr(A^alpha) / (1 - alpha)`` with ``A = Z Z^T / tr(Z Z^T)``, in nats, from 0 for rows along one direction to
    ``log min(N, D)``. At ``alpha=1`` it is the entropy of von Neumann, ``-tr(A log A)``.

    Args:
        z: rows ``(N, D)``, ``N >= 1``, as given: neither centred nor scaled to norm 1.
        alpha: the order, a positive number. Those near 1, such as 1.01, are near the entropy of Shannon.

    Returns:
        The entropy; NaN for zeros alone, which have no shares, or if a number is not finite.

    Cost: as `rank_me`. The N x N matrix, which has the same eigenvalues, is never formed where ``N >= D``.

    >>> import torch
    >>> from sslkernels.evaluation import matrix_entropy
    >>> round(matrix_entropy(torch.eye(4)), 4)  # log 4
    1.3863
    """
    rows, _ = in_range(features("matrix_entropy", "z", z))
    alpha = check_number("matrix_entropy", "alpha", alpha, above=0.0)
    found = shares(singular_values(rows).square())
    if not found.any():
        return float("nan")
    if alpha == 1:
        return float(torch.special.entr(found).sum())
    return float((alpha * found.log()).logsumexp(0) / (1 - alpha))


def coding_rate(z: Tensor, eps: float = 0.5) -> float:
    """Count the nats that code a row up to an error ``eps`` (MCR^2, Yu et al. 2020, eq. 7): large where rows spread.

    ``1/2 logdet(I + D / (N eps^2) Z^T Z)``. The whole rises with the scale of the rows, so compare rows of one norm.

    Args:
        z: rows ``(N, D)``, ``N >= 1``; the authors' have norm 1, and are used as given here.
        eps: the root of the mean squared error of a code, a positive number.

    Returns:
        The rate; NaN if a number is not finite.

    Cost: as `rank_me`.

    >>> import torch
    >>> from sslkernels.evaluation import coding_rate
    >>> round(coding_rate(torch.eye(4)), 4)  # 2 log 5
    3.2189
    """
    rows = features("coding_rate", "z", z)
    eps = check_number("coding_rate", "eps", eps, above=0.0)
    scale = rows.shape[1] / len(rows) / eps**2
    return float((scale * singular_values(rows).square()).log1p().sum() / 2)


def mutual_information_bound(z0: Tensor, z1: Tensor, temperature: float = 0.1) -> float:
    """Bound from below what one view tells of the other (InfoNCE, van den Oord et al. 2018): ``log N - loss``, in nats.

    The loss is `info_nce`, which finds the key of each query among N. **The bound never exceeds log N**, however much
    the views share: where it is near log N, it says so and no more, and only more rows can raise it. It depends on the
    temperature, as another temperature is another critic; the highest of several is a bound too. It is below 0 where
    pairs are found less often than by chance.

    Args:
        z0, z1: two views ``(N, D)``, ``N >= 1``; row i of one matches row i of the other. They are scaled to norm 1.
        temperature: a non-zero number.

    Returns:
        The bound, in the precision of `info_nce`; NaN if a number is not finite.

    Cost: ``2*N^2*D`` operations, ``O(N*D)`` memory.

    >>> import torch
    >>> from sslkernels.evaluation import mutual_information_bound
    >>> round(mutual_information_bound(torch.eye(8), torch.eye(8)), 2)  # log 8
    2.08
    """
    check_pair("mutual_information_bound", {"z0": z0, "z1": z1})
    temperature = check_temperature("mutual_information_bound", temperature)
    first, second = lengthened(z0.detach()), lengthened(z1.detach())
    return math.log(len(z0)) - float(info_nce(first, second, temperature=temperature))
