# SPDX-License-Identifier: Apache-2.0
"""Prepare tensors for kernels: the strides, dtype codes, precision and addresses that every backend asks for."""

from __future__ import annotations

import torch
from torch import Tensor

# The numbers of `Dtype` in csrc/cpu/dtypes.h.
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def rows_of(x: Tensor) -> Tensor:
    """``x`` with unit stride within rows, copied where it has another.

    Between rows, and between samples of rows, any stride will do, zero included.
    """
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def alike(x: Tensor, y: Tensor) -> Tensor:
    """Rows of y, which the kernel reads as it reads those of x."""
    if y.dtype != x.dtype:
        raise TypeError(f"x has dtype {x.dtype} and y {y.dtype}; the kernels read both alike.")
    return rows_of(y)


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def dot_precision() -> str:
    """How a GPU multiplies float32: "ieee", without rounding the factors, or "tf32".

    torch's newer switch is read, since it answers however precision was set: for products alone, for every backend, or
    by set_float32_matmul_precision. The older switch cannot be read any more once the newer one was set.
    """
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def pointer(x: Tensor | None) -> int:
    """The address of ``x``; 0 stands for None."""
    return 0 if x is None else x.data_ptr()
