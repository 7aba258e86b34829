# SPDX-License-Identifier: Apache-2.0
"""Run the sigreg family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES
from sslkernels.ops.sigreg.angles import turns
from sslkernels.ops.sigreg.composed import gradient_dtype
from sslkernels.ops.sigreg.schema import Views

# How many projections are there at a time, if several views have them. More would be fresh pages in every call: 8 views
# of 256 samples and 1024 slices in bfloat16 take 5.9 ms so, and 11 together.
TOGETHER = 1 << 18


def loss(views: Views, need: bool) -> tuple[Tensor, Tensor]:
    z, lines, dtype = views.z.contiguous(), views.slices.to(views.dtype), wide(views.z.dtype)
    threads = torch.get_num_threads()
    (m, n, c), slices = z.shape, lines.shape[1]
    dz = torch.empty((m, n, c) if need else (0,), dtype=dtype, device="cpu")
    value, product = 0.0, gradient_dtype(views)
    columns = lines.to(product).T
    together = max(1, TOGETHER // max(1, n * slices))
    for first in range(0, m, together):
        some = z[first : first + together]
        p = torch.mm(some.view(-1, c).to(views.dtype), lines).to(dtype)
        share = views.weight * len(some) / m
        value += share * _C.characteristic_statistic(
            CODES[dtype], p.data_ptr(), (len(some), n, slices, views.knots), views.step, turns(views.step, dtype),
            share, p.data_ptr() if need else 0, threads,
        )  # fmt: skip
        if need:  # the gradient took the place of the projections
            rows = dz[first : first + together].view(-1, c)
            if product == dtype:
                torch.mm(p, columns, out=rows)
            else:
                p = p.to(product)
                rows.copy_(torch.mm(p, columns))
    if views.centred:
        value += (1 - views.weight) * _C.sigreg_distance(
            CODES[z.dtype], z.data_ptr(), (m, views.centred, n * c), 1 - views.weight, dz.data_ptr() if need else 0,
            threads,
        )  # fmt: skip
    return torch.tensor(value, dtype=dtype, device="cpu"), dz


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
