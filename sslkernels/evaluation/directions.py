# SPDX-License-Identifier: Apache-2.0
"""Brings rows to norm 1 however short they are, since a cosine says nothing of lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.rows import unit_rows

# Kernels divide rows by max(norm, 1e-12), as torch's `normalize` does.
LEAST_NORM = 1e-12


def directions(rows: Tensor) -> Tensor:
    """Divide rows ``(N, D)`` by their norms; rows of zeros stay so."""
    return unit_rows(lengthened(rows))


def lengthened(rows: Tensor) -> Tensor:
    """Divide rows shorter than 1e-12 by their largest number; kernels would leave them shorter than 1."""
    short = torch.linalg.vector_norm(rows, dim=1) < LEAST_NORM
    if not short.any():
        return rows
    found = rows[short].double()
    peak = found.abs().amax(1, keepdim=True)
    return rows.index_put((short,), torch.where(peak > 0, found / peak, found).to(rows.dtype))
