# SPDX-License-Identifier: Apache-2.0
"""What the backends of every family do to a tensor before a kernel reads it."""

from __future__ import annotations

import torch
from torch import Tensor

# csrc/cpu/kernels.h
CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def rows_of(x: Tensor) -> Tensor:
    """Rows with unit stride inside; any stride, zero included, between them and between samples of them."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def pointer(x: Tensor | None) -> int:
    """An address; 0 stands for what is not there."""
    return 0 if x is None else x.data_ptr()
