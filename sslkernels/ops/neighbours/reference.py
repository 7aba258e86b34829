# SPDX-License-Identifier: Apache-2.0
"""Run the neighbours family in plain PyTorch: the specification of every other backend, and a backend of its own.

Scores are stored whole, in O(N*M) memory. Libraries sum a product in another order where its tile ends, so scores are
summed in fp64 where the device has it, and rounded: equal rows then tie.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.neighbours import composed
from sslkernels.ops.neighbours.schema import Search

# Numbers of the differences of rows and their neighbours that are in memory at once.
TOGETHER = 1 << 24


def topk(search: Search, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Sort the scores of each row and take the first k. Scores that are NaN or -inf count as left out."""
    scores = _scores(composed.prepared(search, metric, "reference"))
    values, indices = torch.sort(scores, dim=2, descending=True, stable=True)
    values, indices = values[:, :, :k], indices[:, :, :k]
    indices = indices.masked_fill(values == -torch.inf, -1)
    if metric == "euclidean":
        return composed.by_distance(_distances(search, indices), indices)
    return values.contiguous(), indices


def _scores(search: Search) -> Tensor:
    x, y, bias, exclude = search
    keys, exact = x if y is None else y, torch.float32 if x.device.type == "mps" else torch.float64
    scores = torch.matmul(x.to(exact), keys.to(exact).mT).to(wide(x.dtype))
    if bias is not None:
        scores = scores + bias[:, None]
    # The entries of -1 mark a spare column, which is cut off.
    left_out = scores.new_zeros((*scores.shape[:2], keys.shape[1] + 1), dtype=torch.bool)
    if exclude is not None:
        left_out.scatter_(2, torch.where(exclude < 0, keys.shape[1], exclude), True)
    if y is None:
        left_out.diagonal(dim1=1, dim2=2).fill_(True)
    return scores.masked_fill(left_out[:, :, :-1] | scores.isnan(), -torch.inf)


def _distances(search: Search, indices: Tensor) -> Tensor:
    x = widened(search.x)
    keys = x if search.y is None else widened(search.y)
    batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
    together = max(1, TOGETHER // max(1, x.numel()))
    parts = [
        (x[:, :, None] - keys[batch, some.clamp_min(0)]).square().sum(3).sqrt() for some in indices.split(together, 2)
    ]
    return torch.cat(parts, 2)
