# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the sigreg family: LeJEPA's loss with its gradient, for one process, and the parts of it.

The parts are sums of cosines and sines of projections, and their adjoint. Several ranks exchange the sums between them,
and backends that fuse less are composed of them (composed.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

SIGREG = family("sigreg", kernels=("cpu", "triton"))


class Views(NamedTuple):
    """Hold views of samples, and say what is asked of them.

    Their projections on the slices shall be normal, which counts ``weight``. They shall be near the mean of a sample's
    first ``centred`` views, which counts the rest; nothing is asked where that is 0.
    """

    z: Tensor  # (M, N, C)
    slices: Tensor  # (C, S), unit columns
    dtype: torch.dtype  # z and slices are rounded to this before they are multiplied
    step: float  # between knots
    knots: int
    centred: int
    weight: float


@SIGREG.op
def loss(views: Views, need: bool, backend: str) -> tuple[Tensor, Tensor]:
    """Return the loss, and in the dtype of sums the gradient of z (M, N, C), which is empty if there is no need."""
    z, dtype = views.z, wide(views.z.dtype)
    return z.new_empty((), dtype=dtype), z.new_empty(tuple(z.shape) if need else (0,), dtype=dtype)


@SIGREG.op
def sums(p: Tensor, step: float, knots: int, backend: str) -> Tensor:
    """Sum p (M, N, S) to (M, 2, knots, S), cosines first: of k step p for k = 0 to knots - 1."""
    return p.new_empty((p.shape[0], 2, knots, p.shape[2]))


@SIGREG.op
def adjoint(p: Tensor, grad: Tensor, step: float, backend: str) -> Tensor:
    """Turn the gradient of the sums (M, 2, knots, S) into that of p."""
    return p.new_empty(p.shape)
