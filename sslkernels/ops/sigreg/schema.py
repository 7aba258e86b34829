# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the sigreg family: sums of cosines and sines of projections, and their adjoint."""

from __future__ import annotations

from torch import Tensor

from sslkernels.ops.registry import family

SIGREG = family("sigreg", kernels=("cpu", "triton"))


@SIGREG.op
def sums(p: Tensor, step: float, knots: int, backend: str) -> Tensor:
    """Sum p (M, N, S) to (M, 2, knots, S), cosines first."""
    return p.new_empty((p.shape[0], 2, knots, p.shape[2]))


@SIGREG.op
def adjoint(p: Tensor, grad: Tensor, step: float, backend: str) -> Tensor:
    return p.new_empty(p.shape)
