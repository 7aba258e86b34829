# SPDX-License-Identifier: Apache-2.0
"""Run the sigreg family in plain PyTorch. This is the specification of every other backend, and a backend of its own.

It takes one knot after the other, so that nothing is larger than the projections p (M, N, S). Angles are fp64 where the
device has it: in fp32 the product ``t_k p`` alone is off by 6e-8 of itself, which is 2e-3 at 3e4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.sigreg import composed
from sslkernels.ops.sigreg.schema import Views


def loss(views: Views, need: bool) -> tuple[Tensor, Tensor]:
    step, knots = views.step, views.knots
    return composed.loss(views, need, lambda p: sums(p, step, knots), lambda p, grad: adjoint(p, grad, step))


def sums(p: Tensor, step: float, knots: int) -> Tensor:
    """Sum cos(k step p) and sin(k step p) over samples: (M, 2, knots, S)."""
    out = p.new_empty((p.shape[0], 2, knots, p.shape[2]))
    for k in range(knots):
        angles = _angles(p, k * step)
        out[:, 0, k] = angles.cos().sum(1)
        out[:, 1, k] = angles.sin().sum(1)
    return out


def adjoint(p: Tensor, grad: Tensor, step: float) -> Tensor:
    """Turn grad (M, 2, knots, S) into dp = sum_k t_k (g_sin_k cos(t_k p) - g_cos_k sin(t_k p))."""
    dp = torch.zeros_like(p, memory_format=torch.contiguous_format)
    for k in range(1, grad.shape[2]):
        angles = _angles(p, k * step)
        dp += k * step * (grad[:, 1, None, k] * angles.cos() - grad[:, 0, None, k] * angles.sin())
    return dp


def _angles(p: Tensor, t: float) -> Tensor:
    return p.to(torch.float32 if p.device.type == "mps" else torch.float64) * t
