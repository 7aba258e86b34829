# SPDX-License-Identifier: Apache-2.0
"""Run the similarity family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, alike, contiguous, pointer, rows_of
from sslkernels.ops.similarity.schema import Pairs, Sums


def forward(pairs: Pairs, columns: bool, attend: bool, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    x, exclude = rows_of(pairs.x), contiguous(pairs.exclude)
    keys = x if pairs.y is None else alike(x, pairs.y)
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    dtype = wide(x.dtype)
    rows = torch.empty(n, dtype=dtype, device="cpu")
    column_sums = torch.empty(m if columns else 0, dtype=dtype, device="cpu")
    attended = torch.empty((n, d) if attend else (0,), dtype=dtype, device="cpu")
    _C.similarity_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), n, keys.data_ptr(), keys.stride(0), m, pairs.y is None, d,
        float(pairs.scale), pointer(exclude), 0 if exclude is None else exclude.shape[1],
        pointer(kept), 0 if kept is None else kept.nbytes,
        rows.data_ptr(), column_sums.data_ptr() if columns else 0, attended.data_ptr() if attend else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return rows, column_sums, attended


def backward(
    pairs: Pairs, sums: Sums, kept: Tensor | None, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, exclude = rows_of(pairs.x), contiguous(pairs.exclude)
    keys = x if pairs.y is None else alike(x, pairs.y)
    dx = torch.empty(x.shape, dtype=x.dtype, device="cpu")
    dy = torch.empty(keys.shape if need_y and pairs.y is not None else (0,), dtype=x.dtype, device="cpu")
    dscale = torch.empty((), dtype=wide(x.dtype), device="cpu")
    if x.shape[0] == 0 or keys.shape[0] == 0:  # empty tensors have address 0, which means "not wanted" to the kernel
        return (dx.zero_() if need_x else dx.new_empty(0)), dy.zero_(), dscale.zero_()
    _C.similarity_backward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], keys.data_ptr(), keys.stride(0),
        keys.shape[0], pairs.y is None, x.shape[1], float(pairs.scale), pointer(exclude),
        0 if exclude is None else exclude.shape[1], pointer(kept),
        0 if kept is None else kept.nbytes, pointer(sums.rows), pointer(sums.rows_grad), pointer(sums.cols),
        pointer(sums.cols_grad),
        dx.data_ptr(), dy.data_ptr() if dy.numel() else 0, dscale.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return (dx if need_x else dx.new_empty(0)), dy, dscale
