# SPDX-License-Identifier: Apache-2.0
"""Run the neighbours family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, alike, contiguous, pointer, rows_of
from sslkernels.ops.neighbours.schema import Search

# `Metric` in csrc/cpu/neighbours/kernels.h has the same numbers.
METRICS = {"dot": 0, "cosine": 1, "euclidean": 2}


def topk(search: Search, k: int, metric: str) -> tuple[Tensor, Tensor]:
    x, bias, exclude = rows_of(search.x), contiguous(search.bias), contiguous(search.exclude)
    y = x if search.y is None else alike(x, search.y)
    batch, n, d = x.shape
    values = torch.empty((batch, n, k), dtype=wide(x.dtype), device="cpu")
    indices = values.new_empty((batch, n, k), dtype=torch.int64)
    excluded = 0 if exclude is None else exclude.shape[2]
    _C.neighbours_topk(
        CODES[x.dtype], METRICS[metric], x.data_ptr(), (x.stride(1), x.stride(0)), y.data_ptr(),
        (y.stride(1), y.stride(0)), search.y is None, pointer(bias), pointer(exclude),
        (batch, n, y.shape[1], d, excluded, k), values.data_ptr(), indices.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return values, indices
