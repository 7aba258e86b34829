# SPDX-License-Identifier: Apache-2.0
"""The rows family in float64, one row at a time, and the gradient of any oracle. It shares no code with the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def unit(z: Tensor) -> Tensor:
    z = z.double()
    return z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(1e-12)


def cosine(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """The cosine (N,) of each row of x with that of y; smaller norms count as eps."""
    return stack([_clamped(a, eps) @ _clamped(b, eps) for a, b in zip(x.double(), y.double(), strict=True)])


def gradients(value: Callable[..., Tensor], inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Compute float64 gradients of the scalar ``value(*inputs)`` for each tensor given."""
    leaves = [None if x is None else x.detach().double().clone().requires_grad_() for x in inputs]
    value(*leaves).backward()
    return [None if leaf is None else leaf.grad for leaf in leaves]


def stack(values: list[Tensor]) -> Tensor:
    return torch.stack(values) if values else torch.empty(0, dtype=torch.float64)


def _clamped(row: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(row)
    return row / norm if norm > eps else row / eps
