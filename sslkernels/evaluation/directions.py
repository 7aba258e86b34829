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
    """Divide rows by their largest number where that is below 1e-12; kernels would take them for shorter than 1."""
    peak = torch.linalg.vector_norm(rows, torch.inf, dim=1, keepdim=True)
    short = (peak < LEAST_NORM) & (peak > 0)
    if not short.any():
        return rows
    return torch.where(short, rows.double() / peak.double(), rows.double()).to(rows.dtype)
