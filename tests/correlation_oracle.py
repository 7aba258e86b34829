# SPDX-License-Identifier: Apache-2.0
"""The correlation family in float64, as the papers write it, with the D x D matrix. It shares no code with ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def cross_correlation_sq(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    c = a.double().T @ b.double()
    return c.diagonal(), c.square().sum()


def standardized(z: Tensor, eps: float, convention: str = "official") -> Tensor:
    z = z.double()
    centred = z - z.mean(0)
    if convention == "stable-pretraining":
        return centred / (z.std(0) + eps)
    return centred / (z.var(0, unbiased=False) + eps).sqrt()


def barlow_twins(
    z0: Tensor,
    z1: Tensor,
    lambd: float = 5e-3,
    eps: float = 1e-5,
    convention: str = "official",
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Compute Barlow Twins' loss. With ``sizes``, each block of so many rows is standardised on its own."""
    blocks = list(sizes or [len(z0)])
    a, b = (torch.cat([standardized(part, eps, convention) for part in z.split(blocks)]) for z in (z0, z1))
    c = a.T @ b / len(z0)
    return (1 - c.diagonal()).square().sum() + lambd * off_diagonal(c).square().sum()


def variance_hinge(z: Tensor, eps: float = 1e-4) -> Tensor:
    return torch.relu(1 - (z.double().var(0) + eps).sqrt()).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    z = z.double()
    z = z - z.mean(0)
    return off_diagonal(z.T @ z / (len(z) - 1)).square().sum() / z.shape[1]


def vicreg(z0: Tensor, z1: Tensor, sim: float = 25.0, var: float = 25.0, cov: float = 1.0, eps: float = 1e-4) -> Tensor:
    z0, z1 = z0.double(), z1.double()
    return (
        sim * (z0 - z1).square().mean()
        + var * (variance_hinge(z0, eps) + variance_hinge(z1, eps)) / 2
        + cov * (covariance_penalty(z0) + covariance_penalty(z1))
    )
