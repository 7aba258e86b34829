# SPDX-License-Identifier: Apache-2.0
"""Multiply several gradients by one number in one launch, where a launch costs more than what it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.ops.triton_launch import cdiv, empty
from sslkernels.ops.triton_times_kernels import times_kernel

MOST = 4  # gradients
_BLOCK = 4096  # numbers of a program


def times(gradients: Sequence[Tensor], number: Tensor, dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Multiply up to `MOST` float32 gradients by ``number`` and round each to its dtype."""
    gradients = [gradient.contiguous() for gradient in gradients]
    products = [empty(of, tuple(of.shape), dtype) for of, dtype in zip(gradients, dtypes, strict=True)]
    sizes, absent = [gradient.numel() for gradient in gradients], [None] * (MOST - len(gradients))
    pairs = [x for pair in zip(gradients, products, strict=True) for x in pair]
    with torch.cuda.device_of(number):
        times_kernel[(max(1, cdiv(max(sizes), _BLOCK)), len(gradients))](
            number, *pairs, *absent, *absent, *sizes, *absent, BLOCK=_BLOCK, num_warps=8
        )
    return products
