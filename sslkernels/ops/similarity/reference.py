# SPDX-License-Identifier: Apache-2.0
"""The similarity family in plain PyTorch: the specification of every other backend, and a backend of its own.

S_ij = scale * <x_i, y_j>, summed in fp32 (fp64 for fp64 input), stored whole: O(N*M) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12


def forward(
    x: Tensor, y: Tensor | None, scale: Tensor, exclude: Tensor | None, columns: bool, attend: bool, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Row log-sum-exp (N,), column log-sum-exp (M,) if ``columns``, and softmax(S) @ y (N, D) if ``attend``."""
    logits, _, keys = _logits(x, y, scale)
    logits = logits.masked_fill(_left_out(exclude, logits), -torch.inf)
    rows = logits.logsumexp(1)
    column_sums = logits.logsumexp(0) if columns else logits.new_empty(0)
    attended = _weights(logits, rows[:, None]) @ keys if attend else logits.new_empty(0)
    return rows, column_sums, attended


def backward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    exclude: Tensor | None,
    rows: Tensor | None,
    rows_grad: Tensor | None,
    cols: Tensor | None,
    cols_grad: Tensor | None,
    kept: Tensor | None,
    need_x: bool,
    need_y: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """dx, dy and dscale of sum(rows_grad * rows) + sum(cols_grad * cols); what is not needed is empty.

    With ``y=None`` both terms belong to the same rows, each with its own exclusions, and dscale is halved.
    """
    logits, queries, keys = _logits(x, y, scale)
    left_out = _left_out(exclude, logits)
    weights = torch.zeros_like(logits)
    if rows is not None and rows_grad is not None:
        weights += (rows_grad[:, None] * _weights(logits, rows[:, None])).masked_fill(left_out, 0)
    if cols is not None and cols_grad is not None:
        left_out = left_out if y is not None else left_out.T
        weights += (cols_grad[None, :] * _weights(logits, cols[None, :])).masked_fill(left_out, 0)
    moved = weights @ keys
    dscale = (queries * moved).sum()
    if y is None:
        dscale = dscale / 2
    dx = (scale * moved).to(x.dtype) if need_x else x.new_empty(0)
    dy = (scale * (weights.T @ queries)).to(y.dtype) if need_y and y is not None else x.new_empty(0)
    return dx, dy, dscale


def unit_rows_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of both parts, stacked and divided by max(norm, 1e-12); and their norms."""
    z = _wide(z0 if z1 is None else torch.cat([z0, z1]))
    norms = _norms(z)
    return (z / norms.clamp_min(EPS)[:, None]).to(dtype), norms


def unit_rows_backward(unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    u, g = _wide(unit), _wide(grad)
    along = torch.where(norms > EPS, (u * g).sum(1), 0.0)
    dz = ((g - u * along[:, None]) / norms.clamp_min(EPS)[:, None]).to(dtype)
    return dz[:n0].clone(), dz[n0:].clone()


def row_dot_forward(x: Tensor, y: Tensor | None, shift: int) -> Tensor:
    """<x_i, y_((i + shift) mod M)>, with y = x where y is None."""
    return (_wide(x) * _partners(x, x if y is None else y, shift)).sum(1)


def row_dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    from_x = grad[:, None] * _wide(x)
    received = torch.zeros((x if y is None else y).shape, dtype=from_x.dtype, device=x.device)
    received.index_add_(0, _partner_index(x, x if y is None else y, shift), from_x)
    dx = grad[:, None] * _partners(x, x if y is None else y, shift)
    if y is None:
        return (dx + received).to(x.dtype), x.new_empty(0)
    return (
        dx.to(x.dtype) if need_x else x.new_empty(0),
        received.to(y.dtype) if need_y else x.new_empty(0),
    )


def row_cosine_forward(x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Cosines (N,) of matching rows over norms of at least eps, and the norms (2, N) as they are."""
    x, y = _wide(x), _wide(y)
    norms = torch.stack((_norms(x), _norms(y)))
    a, b = norms.clamp_min(eps)[:, :, None]
    return ((x / a) * (y / b)).sum(1), norms


def row_cosine_backward(
    x: Tensor, y: Tensor, cosines: Tensor, norms: Tensor, grad: Tensor, eps: float, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    a, b = norms.clamp_min(eps)[:, :, None]
    u, v = _wide(x) / a, _wide(y) / b
    along_u, along_v = torch.where(norms > eps, cosines, 0.0)[:, :, None]
    g = grad[:, None]
    dx = (g / a * (v - along_u * u)).to(x.dtype) if need_x else x.new_empty(0)
    dy = (g / b * (u - along_v * v)).to(y.dtype) if need_y else y.new_empty(0)
    return dx, dy


def _norms(z: Tensor) -> Tensor:
    peak = z.abs().amax(1, keepdim=True)  # squares of z / peak neither overflow nor vanish
    ratios = torch.where(z.abs() == peak, 1, z / peak)  # 1 where both are infinite, or 0
    return peak[:, 0] * torch.linalg.vector_norm(ratios, dim=1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _logits(x: Tensor, y: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    queries = _wide(x)
    keys = queries if y is None else _wide(y)
    return scale * (queries @ keys.T), queries, keys


def _left_out(exclude: Tensor | None, logits: Tensor) -> Tensor:
    left_out = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    if exclude is None or logits.numel() == 0:
        return left_out
    # One spare column takes the -1 entries.
    spare = torch.zeros(logits.shape[0], logits.shape[1] + 1, dtype=torch.bool, device=logits.device)
    spare.scatter_(1, torch.where(exclude < 0, logits.shape[1], exclude), True)
    return spare[:, :-1]


def _weights(logits: Tensor, lse: Tensor) -> Tensor:
    """exp(logits - lse), zero where nothing was left to sum."""
    return torch.where(lse == -torch.inf, 0.0, torch.exp(logits - lse))


def _partner_index(x: Tensor, y: Tensor, shift: int) -> Tensor:
    return (torch.arange(x.shape[0], device=x.device) + shift) % y.shape[0]


def _partners(x: Tensor, y: Tensor, shift: int) -> Tensor:
    return _wide(y)[_partner_index(x, y, shift)]
