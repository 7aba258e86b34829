# SPDX-License-Identifier: Apache-2.0
"""Compare how features differ between samples with how they differ between the views of a sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_number
from sslkernels.evaluation.moments import (
    BLOCK,
    LARGE,
    column_means,
    eigenvalues,
    entropy_rank,
    features,
    gram,
    in_range,
)

VIEWS = "(n, q, D), q views of each of n samples"


def lidar(views: Tensor, delta: float = 1e-4) -> float:
    """Count the directions that tell samples apart, views aside (LiDAR, Thilak et al. 2024): rank by discriminants.

    A sample is a class, and its views are the members. With the covariance ``S_b`` of the means of samples, and
    ``S_w = mean_x cov(views of x) + delta*I``, the eigenvalues ``l`` of ``S_w^-1/2 S_b S_w^-1/2`` have the rank
    ``exp(-sum_k p_k log p_k)``, ``p_k = l_k / sum(l) + 1e-8``. `rank_me` counts directions of noise too, this does not.

    Args:
        views: ``(n, q, D)``, of at least two samples with two views each. The authors take 1000 samples or more and 50
            views; with ``n <= D`` the rank is at most ``n - 1``.
        delta: what keeps ``S_w`` invertible, a positive number, but at least the rounding of ``S_w``. It is not scaled,
            so rows that are much smaller than 1 have another rank.

    Returns:
        The rank, at most D up to the 1e-8; 0 where the means do not differ, NaN if a number is not finite.

    Cost: ``2*n*(q + 1)*D^2`` operations and about ``20*D^3`` for two decompositions; ``O(n*D + D^2)`` memory.

    >>> import torch
    >>> from sslkernels.evaluation import lidar
    >>> noise = torch.tensor([[1.0], [-1.0]]) * torch.ones(4)
    >>> round(lidar(10 * torch.eye(4)[:, None] + noise), 3)  # four samples differ in three directions
    3.0
    """
    rows, power = in_range(_views("lidar", views))
    delta = check_number("lidar", "delta", delta, above=0.0)
    between, within = _covariances(rows)
    if not (between.isfinite().all() and within.isfinite().all()):
        return float("nan")
    rounding = torch.finfo(torch.float64).eps * len(within) * float(within.diagonal().max())
    within.diagonal().add_(max(min(delta * power * power, LARGE), rounding))
    root = torch.linalg.cholesky(within)
    half = torch.linalg.solve_triangular(root, between, upper=False)
    return entropy_rank(eigenvalues(torch.linalg.solve_triangular(root, half.T, upper=False)), 1e-8)


class AugmentationCovariance(NamedTuple):
    """The result of `augmentation_covariance`."""

    between: Tensor
    within: Tensor
    ratio: float


def augmentation_covariance(views: Tensor) -> AugmentationCovariance:
    """Compare how samples differ with how their views do: the covariance operators of Tian et al. (2020).

    ``between = Cov_x[E_view f]`` is what a contrastive loss amplifies, and ``within = E_x[Cov_view f]`` what it
    removes; their sum is the covariance of all rows. Of a layer's output, take the means over places, or flatten it.

    Args:
        views: ``(n, q, D)``, of at least two samples with two views each.

    Returns:
        ``between`` and ``within``: the eigenvalues of either ``(D,)``, float64, largest first; infinite, or 0, where
        they leave its range. ``ratio`` is that of the traces, between to within: infinite where views do not differ,
        NaN where samples do not either, or a number is not finite. Means and covariances are those of the q views at
        hand. So views of pure noise have a ratio of ``1 / (q - 1)`` rather than 0: pass many.

    Cost: ``2*n*(q + 1)*D^2`` operations, about ``20*D^3`` for two decompositions; ``O(n*D + D^2)`` memory.

    >>> import torch
    >>> from sslkernels.evaluation import augmentation_covariance
    >>> samples, noise = torch.tensor([[[3.0]], [[-3.0]]]), torch.tensor([[1.0], [-1.0]])
    >>> round(augmentation_covariance(samples + noise).ratio, 4)
    9.0
    """
    rows, power = in_range(_views("augmentation_covariance", views))
    between, within = _covariances(rows)
    ratio = float(between.trace() / within.trace())
    # The square of the power itself may be beyond float64.
    return AugmentationCovariance(eigenvalues(between) / power / power, eigenvalues(within) / power / power, ratio)


def _views(function: str, views: Tensor) -> Tensor:
    rows = features(function, "views", views, least=2, expected=VIEWS, dims=3)
    if rows.shape[1] < 2:
        raise ValueError(
            f"{function}: views has shape {tuple(rows.shape)}; pass at least two views of each sample, {VIEWS}."
        )
    return rows


def _covariances(views: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance of the samples' means, and the mean covariance of their views, ``(D, D)`` in float64."""
    samples, count, dim = views.shape
    within = views.new_zeros(dim, dim, dtype=torch.float64)
    means = []
    for part in views.split(max(1, BLOCK // (count * dim))):
        flat = part.double().transpose(0, 1)  # views first
        # Sums of equal views would leave a rounding error of any rank.
        mean = flat[0] + (flat - flat[0]).mean(0)
        apart = (flat - mean).flatten(0, 1)
        within.addmm_(apart.T, apart)
        means.append(mean)
    centres = torch.cat(means)
    return gram(centres, column_means(centres)) / samples, within / (samples * count)
