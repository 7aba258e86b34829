# SPDX-License-Identifier: Apache-2.0
"""Declare the op of the neighbours family: the k best columns of each row. It has no gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

NEIGHBOURS = family("neighbours", kernels=("cpu", "triton"))


class Search(NamedTuple):
    """Hold a batch of problems: rows of x look for rows of y, each in its own problem."""

    x: Tensor  # (B, N, D)
    y: Tensor | None  # (B, M, D), or None for x itself, where a row does not find itself
    bias: Tensor | None  # (B, M) in the dtype of sums, added to the products
    exclude: Tensor | None  # (B, N, E): row i does not find these columns; -1 for none


@NEIGHBOURS.op
def topk(search: Search, k: int, metric: str, backend: str) -> tuple[Tensor, Tensor]:
    """Return values in the dtype of sums and int64 indices of the k best columns of each row, best first."""
    x = search.x
    shape = (x.shape[0], x.shape[1], k)
    return x.new_empty(shape, dtype=wide(x.dtype)), x.new_empty(shape, dtype=torch.int64)
