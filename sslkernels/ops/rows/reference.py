# SPDX-License-Identifier: Apache-2.0
"""Run the rows family in plain PyTorch. This is the specification of every other backend, and a backend of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.rows.schema import CosineLoss, Matched

EPS = 1e-12


def unit_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Stack the rows of both parts, divide them by max(norm, 1e-12), and return them and their norms."""
    z = widened(z0 if z1 is None else torch.cat([z0, z1]))
    norms = _norms(z)
    return (z / norms.clamp_min(EPS)[:, None]).to(dtype), norms


def unit_backward(unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    u, g = widened(unit), widened(grad)
    along = torch.where(norms > EPS, (u * g).sum(1), 0.0)
    dz = ((g - u * along[:, None]) / norms.clamp_min(EPS)[:, None]).to(dtype)
    return dz[:n0].clone(), dz[n0:].clone()


def dot_forward(x: Tensor, y: Tensor | None, shift: int) -> Tensor:
    """Multiply matching rows: <x_i, y_((i + shift) mod M)>, with y = x where y is None."""
    return (widened(x) * _partners(x, x if y is None else y, shift)).sum(1)


def dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    from_x = grad[:, None] * widened(x)
    received = torch.zeros((x if y is None else y).shape, dtype=from_x.dtype, device=x.device)
    received.index_add_(0, _partner_index(x, x if y is None else y, shift), from_x)
    dx = grad[:, None] * _partners(x, x if y is None else y, shift)
    if y is None:
        return (dx + received).to(x.dtype), x.new_empty(0)
    return (
        dx.to(x.dtype) if need_x else x.new_empty(0),
        received.to(y.dtype) if need_y else x.new_empty(0),
    )


def cosine_forward(rows: Matched) -> tuple[Tensor, Tensor]:
    """Return the cosines (N,) of matching rows, with norms of at least eps, and the norms (2, N) as they are."""
    x, y = widened(rows.x), widened(rows.y)
    norms = torch.stack((_norms(x), _norms(y)))
    a, b = norms.clamp_min(rows.eps)[:, :, None]
    return ((x / a) * (y / b)).sum(1), norms


def cosine_backward(
    rows: Matched, cosines: Tensor, norms: Tensor, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    x, y, eps = rows
    a, b = norms.clamp_min(eps)[:, :, None]
    u, v = widened(x) / a, widened(y) / b
    along_u, along_v = torch.where(norms > eps, cosines, 0.0)[:, :, None]
    g = grad[:, None]
    dx = (g / a * (v - along_u * u)).to(x.dtype) if need_x else x.new_empty(0)
    dy = (g / b * (u - along_v * v)).to(y.dtype) if need_y else y.new_empty(0)
    return dx, dy


def cosine_loss(loss: CosineLoss, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of ``ranks / divisor (offset - weight * cosine)``, and its gradients in the dtype of sums."""
    x, y, eps, offset, weight, ranks, divisor = loss
    rows, share = Matched(widened(x), widened(y), eps), ranks / divisor
    cosines, norms = cosine_forward(rows)
    dx, dy = cosine_backward(rows, cosines, norms, torch.full_like(cosines, -weight * share), need_x, need_y)
    return ((offset - weight * cosines) * share).sum(), dx, dy


def _norms(z: Tensor) -> Tensor:
    peak = z.abs().amax(1, keepdim=True)  # squares of z / peak neither overflow nor vanish
    ratios = torch.where(z.abs() == peak, 1, z / peak)  # 1 also where z and peak are both infinite, or both 0
    return peak[:, 0] * torch.linalg.vector_norm(ratios, dim=1)


def _partner_index(x: Tensor, y: Tensor, shift: int) -> Tensor:
    return (torch.arange(x.shape[0], device=x.device) + shift) % y.shape[0]


def _partners(x: Tensor, y: Tensor, shift: int) -> Tensor:
    return widened(y)[_partner_index(x, y, shift)]
