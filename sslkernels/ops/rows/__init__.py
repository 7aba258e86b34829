# SPDX-License-Identifier: Apache-2.0
"""Treat rows one by one: divide them by their norms, multiply them with matching rows, and compare by cosine."""

from __future__ import annotations

from torch import Tensor

from sslkernels.ops.dtypes import compute_dtype, promoted
from sslkernels.ops.repeats import distinct
from sslkernels.ops.rows.autograd import RowDot, UnitRows
from sslkernels.ops.rows.schema import ROWS

__all__ = ["ROWS", "row_dot", "unit_rows"]


def unit_rows(z0: Tensor, z1: Tensor | None = None, *, backend: str | None = None) -> Tensor:
    """Divide rows by ``max(norm, 1e-12)``; two parts come back stacked, z0 first.

    Shapes ``(N, D)`` and ``(M, D)`` give ``(N + M, D)`` in the inputs' dtype (autocast's inside autocast). Norms are
    float32 (float64 for float64 rows).

    >>> import torch
    >>> from sslkernels.ops.rows import unit_rows
    >>> unit_rows(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    if z1 is not None:
        z0, z1 = promoted(z0, z1)
    return UnitRows.apply(*distinct(z0, z1), compute_dtype(z0), ROWS.choose(z0.device, z0.dtype, backend))


def row_dot(x: Tensor, y: Tensor | None = None, *, shift: int = 0, backend: str | None = None) -> Tensor:
    """Multiply matching rows: ``<x_i, y_((i + shift) mod M)>``, ``(N,)``, for ``N <= M``.

    The products are float32 (float64 for float64 rows). ``y=None`` means ``y = x``.

    >>> import torch
    >>> from sslkernels.ops.rows import row_dot
    >>> row_dot(torch.eye(2), torch.eye(2))
    tensor([1., 1.])
    """
    return RowDot.apply(*distinct(x, y), shift, ROWS.choose(x.device, x.dtype, backend))
