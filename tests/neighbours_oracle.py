# SPDX-License-Identifier: Apache-2.0
"""Nearest rows in float64, one row at a time, sorted by value and then by index. It shares no code with the library."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scores(x: Tensor, y: Tensor, metric: str, bias: Tensor | None = None) -> Tensor:
    """The value (N, M) of every pair; squared distances stand for distances, with the sign turned."""
    x, y = x.double(), y.double()
    if metric == "euclidean":
        return -torch.stack([(row - y).square().sum(1) for row in x])
    if metric == "cosine":
        x, y = (z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(1e-12) for z in (x, y))
    products = torch.stack([(row * y).sum(1) for row in x])
    return products if bias is None else products + bias.double()


def topk(
    x: Tensor,
    y: Tensor | None,
    k: int,
    metric: str = "dot",
    bias: Tensor | None = None,
    exclude: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return values and indices (..., N, k) of one problem, or of each problem of a batch."""
    if x.dim() > 2:
        every = [[None if z is None else z[b] for z in (x, y, bias, exclude)] for b in range(len(x))]
        parts = [topk(rows, keys, k, metric, added, left_out) for rows, keys, added, left_out in every]
        return torch.stack([values for values, _ in parts]), torch.stack([indices for _, indices in parts])
    table = scores(x, x if y is None else y, metric, bias)
    values, indices = [], []
    for i, row in enumerate(table.tolist()):
        left_out = {i} if y is None else set()
        left_out |= set() if exclude is None else set(exclude[i].reshape(-1).tolist())
        found = sorted((-value, j) for j, value in enumerate(row) if j not in left_out and value > -math.inf)[:k]
        found += [(math.inf, -1)] * (k - len(found))
        values.append([math.sqrt(value) if metric == "euclidean" else -value for value, _ in found])
        indices.append([j for _, j in found])
    return torch.tensor(values, dtype=torch.float64), torch.tensor(indices)
