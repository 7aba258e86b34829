# SPDX-License-Identifier: Apache-2.0
"""Run the sigmoid family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, alike, rows_of
from sslkernels.ops.sigmoid.schema import Needs, Pairs

Side = tuple[int, int, int]


def forward(pairs: Pairs) -> Tensor:
    sums = torch.empty(pairs.x.shape[0], dtype=wide(pairs.x.dtype), device="cpu")
    x, y = _sides(pairs)
    _C.sigmoid_forward(
        CODES[x.dtype], _side(x), _side(y), pairs.y is None, pairs.paired, x.shape[1], float(pairs.scale),
        float(pairs.bias), sums.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return sums


def backward(pairs: Pairs, weights: Tensor, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = _sides(pairs)
    weights, gradients = weights.contiguous(), _gradients(pairs, needs)
    if any(needs) and weights.numel():
        _C.sigmoid_backward(
            CODES[x.dtype], _side(x), _side(y), pairs.y is None, pairs.paired, x.shape[1], float(pairs.scale),
            float(pairs.bias), weights.data_ptr(), [of.data_ptr() for of in gradients], torch.get_num_threads(),
        )  # fmt: skip
    else:
        for gradient in gradients:
            gradient.zero_()
    return gradients


def loss(pairs: Pairs, share: float, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, y = _sides(pairs)
    value, gradients = torch.empty((), dtype=wide(x.dtype), device="cpu"), _gradients(pairs, needs)
    _C.sigmoid_loss(
        CODES[x.dtype], _side(x), _side(y), pairs.paired, x.shape[1], float(pairs.scale), float(pairs.bias), share,
        value.data_ptr(), [of.data_ptr() for of in gradients], torch.get_num_threads(),
    )  # fmt: skip
    return value, *gradients


def _sides(pairs: Pairs) -> tuple[Tensor, Tensor]:
    x = rows_of(pairs.x)
    return x, x if pairs.y is None else alike(x, pairs.y)


def _side(x: Tensor) -> Side:
    return x.data_ptr(), x.stride(0), x.shape[0]


def _gradients(pairs: Pairs, needs: Needs) -> Any:
    """Allocate the gradients; an empty tensor has the address 0, which means that it is not wanted."""
    return tuple(
        torch.empty(of.shape if need and of is not None else (0,), dtype=pairs.scale.dtype, device="cpu")
        for of, need in zip(pairs[:4], needs, strict=True)
    )
