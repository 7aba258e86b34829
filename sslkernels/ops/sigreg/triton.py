# SPDX-License-Identifier: Apache-2.0
"""The sigreg family on Triton: choose a grid, allocate, launch. Nothing here waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.sigreg import composed
from sslkernels.ops.sigreg import triton_kernels as kernels
from sslkernels.ops.sigreg.angles import turns
from sslkernels.ops.sigreg.schema import Views
from sslkernels.ops.triton_launch import cdiv, floats, processors

# A thread has 4 projections, whose powers leave registers for the rest; those of 8 spill. Triton 3.9 compiles both
# kernels for sm_80, sm_90 and sm_100 without spills. This was not measured on a GPU.
TILE = {"BLOCK_N": 16, "BLOCK_S": 32, "num_warps": 4}
# Samples are split among programs, each with sums of its own, until a multiprocessor has this many programs.
PROGRAMS = 4  # per multiprocessor


def loss(views: Views, need: bool) -> tuple[Tensor, Tensor]:
    step, knots = views.step, views.knots
    return composed.loss(views, need, lambda p: sums(p, step, knots), lambda p, grad: adjoint(p, grad, step))


def sums(p: Tensor, step: float, knots: int) -> Tensor:
    p = p.contiguous()
    views, n, slices = p.shape
    if n == 0:
        return p.new_zeros((views, 2, knots, slices))
    across = cdiv(slices, TILE["BLOCK_S"])
    parts = max(1, min(cdiv(n, TILE["BLOCK_N"]), PROGRAMS * processors(p.device) // (across * views)))
    partial = floats(p, views, parts, 2, knots, slices)
    kernels.sums_kernel[(across * parts * views,)](
        p, partial, n, slices, knots, parts, *turns(step, torch.float32), **TILE
    )
    total = partial.sum(1) if parts > 1 else partial[:, 0]
    total[:, 0, 0], total[:, 1, 0] = n, 0  # no program computes knot 0
    return total


def adjoint(p: Tensor, grad: Tensor, step: float) -> Tensor:
    p, grad = p.contiguous(), grad.contiguous()
    views, n, slices = p.shape
    dp = floats(p, views, n, slices)
    if n:
        across, along = cdiv(slices, TILE["BLOCK_S"]), cdiv(n, TILE["BLOCK_N"])
        kernels.adjoint_kernel[(across * along * views,)](
            p, grad, dp, n, slices, grad.shape[2], step, *turns(step, torch.float32), **TILE
        )
    return dp
