# SPDX-License-Identifier: Apache-2.0
"""What the backends of every family do to a tensor before a kernel reads it."""

from __future__ import annotations

import torch
from torch import Tensor

# csrc/cpu/dtypes.h
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def rows_of(x: Tensor) -> Tensor:
    """Rows with unit stride inside; any stride, zero included, between them and between samples of them."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def dot_precision() -> str:
    """What float32 products on a GPU may be rounded to: "ieee", not at all, or "tf32".

    torch's newer switch answers however it was set: of its own, of every backend, or by set_float32_matmul_precision.
    The older one refuses to be read once the newer was set.
    """
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def pointer(x: Tensor | None) -> int:
    """An address; 0 stands for what is not there."""
    return 0 if x is None else x.data_ptr()
