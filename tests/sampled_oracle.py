# SPDX-License-Identifier: Apache-2.0
"""Sampled products and their gradients in float64, one pair after the other. Shares no code with the library."""

from __future__ import annotations

import torch
from torch import Tensor


def products(x: Tensor, y: Tensor, index: Tensor, scale: float) -> Tensor:
    """(N, K) of x (N, D), y (M, D) and index (N, K)."""
    x, y = x.detach().double(), y.detach().double()
    out = torch.full(index.shape, -torch.inf, dtype=torch.float64)
    for i, row in enumerate(index.tolist()):
        for k, j in enumerate(row):
            if j >= 0:
                out[i, k] = scale * torch.dot(x[i], y[j])
    return out


def gradients(x: Tensor, y: Tensor, index: Tensor, scale: float, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of x, y and the scale, given that of the products."""
    x, y, grad = x.detach().double(), y.detach().double(), grad.double()
    dx, dy, dscale = torch.zeros_like(x), torch.zeros_like(y), torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(index.tolist()):
        for k, j in enumerate(row):
            if j >= 0:
                dx[i] += scale * grad[i, k] * y[j]
                dy[j] += scale * grad[i, k] * x[i]
                dscale += grad[i, k] * torch.dot(x[i], y[j])
    return dx, dy, dscale
