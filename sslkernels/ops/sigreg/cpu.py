# SPDX-License-Identifier: Apache-2.0
"""Run the sigreg family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.launch import CODES
from sslkernels.ops.sigreg.autograd import turns


def sums(p: Tensor, step: float, knots: int) -> Tensor:
    p = p.contiguous()
    views, n, slices = p.shape
    out = torch.empty((views, 2, knots, slices), dtype=p.dtype, device="cpu")
    _C.characteristic_sums(
        CODES[p.dtype], p.data_ptr(), (views, n, slices, knots), step, turns(step, p.dtype), out.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def adjoint(p: Tensor, grad: Tensor, step: float) -> Tensor:
    p, grad = p.contiguous(), grad.contiguous()
    views, n, slices = p.shape
    dp = torch.empty((views, n, slices), dtype=p.dtype, device="cpu")
    _C.characteristic_adjoint(
        CODES[p.dtype], p.data_ptr(), (views, n, slices, grad.shape[2]), step, turns(step, p.dtype), grad.data_ptr(),
        dp.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return dp
