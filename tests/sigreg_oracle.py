# SPDX-License-Identifier: Apache-2.0
"""SIGReg and LeJEPA in float64 as the paper writes them, with the dense (views, samples, slices, knots) tensor.

Shares no code with the library; differentiable with plain autograd.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sums(p: Tensor, step: float, knots: int) -> Tensor:
    """(M, 2, T, S) of projections (M, N, S)."""
    angles = p.double()[:, :, None, :] * (step * torch.arange(knots, dtype=torch.float64))[:, None]
    return torch.stack([angles.cos().sum(1), angles.sin().sum(1)], 1)


def sigreg(z: Tensor, slices: Tensor, knots: int = 17, t_max: float = 3.0) -> Tensor:
    p = z.double() @ slices.double()
    n, step, total = z.shape[-2], t_max / (knots - 1), torch.zeros((), dtype=torch.float64)
    for k in range(knots):
        t = k * step
        mean = torch.exp(1j * t * p).mean(-2)
        width = step / 2 if k in (0, knots - 1) else step
        total = total + 2 * width * math.exp(-t * t / 2) * (mean - math.exp(-t * t / 2)).abs().square().mean()
    return n * total


def lejepa(local: Tensor, world: Tensor, slices: Tensor, weight: float) -> Tensor:
    every = torch.cat([world, local]).double()
    distance = (every - world.double().mean(0)).square().mean()
    return weight * sigreg(every, slices) + (1 - weight) * distance


def unit_slices(features: int, count: int) -> Tensor:
    slices = torch.randn(features, count, dtype=torch.float64)
    return slices / slices.norm(dim=0)
