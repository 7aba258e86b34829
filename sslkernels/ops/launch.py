# SPDX-License-Identifier: Apache-2.0
"""Prepare tensors for kernels: the strides, dtype codes, precision and addresses that every backend asks for."""

from __future__ import annotations

import torch
from torch import Tensor

# `Dtype` in csrc/cpu/dtypes.h has the same numbers.
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def rows_of(x: Tensor) -> Tensor:
    """Return ``x`` with unit stride within rows; it is copied if it has another.

    Rows, and samples of rows, may lie at any distance from each other, zero included.
    """
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def alike(x: Tensor, y: Tensor) -> Tensor:
    """Return the rows of y for a kernel that reads them as it reads those of x; both need one dtype."""
    if y.dtype != x.dtype:
        raise TypeError(f"x has dtype {x.dtype} and y {y.dtype}; the kernels read both alike.")
    return rows_of(y)


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def dot_precision(dtype: torch.dtype = torch.float32) -> str:
    """Return how a GPU multiplies factors of ``dtype``: "tf32" rounds those of float32, "ieee" rounds none.

    We read torch's newer switch, since it answers however precision was set: for products alone, for every backend, or
    by set_float32_matmul_precision. The older switch cannot be read any more once the newer one was set. Only float32
    has a choice: other dtypes do not look, and their kernels need not be compiled again when the switch changes.
    """
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def pointer(x: Tensor | None) -> int:
    """Return the address of ``x``, or 0 for None."""
    return 0 if x is None else x.data_ptr()


def power_of_two(size: int) -> int:
    """The least power of two that is not below ``size``. triton.next_power_of_2 takes more than a microsecond."""
    return 1 << (size - 1).bit_length()
