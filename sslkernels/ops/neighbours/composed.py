# SPDX-License-Identifier: Apache-2.0
"""Prepare a search for backends whose kernels know products alone, and turn what they find into distances.

dot        <x, y> + bias
cosine     the same of unit rows
euclidean  <x, y> - |y|^2 / 2 of centred rows, which is largest where |x - y| is smallest
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.neighbours.schema import Search
from sslkernels.ops.rows import unit_rows

# One of so many rows is the centre: the one that is nearest to their mean. Rows on a grid, such as pixels, stay on it.
CENTRE_ROWS = 256


def prepared(search: Search, metric: str, backend: str) -> Search:
    """Return a search whose products have the order of the metric."""
    x, y, bias, exclude = search
    if metric == "cosine":
        x, y = _unit(x, backend), None if y is None else _unit(y, backend)
    elif metric == "euclidean":
        if x.dtype == wide(x.dtype):  # narrower rows would be rounded; as they are, their products are exact
            centre = _centre(x if y is None else y)
            x, y = x - centre, None if y is None else y - centre
        bias = widened(x if y is None else y).square().sum(2) / -2
    return Search(x, y, bias, exclude)


def _centre(rows: Tensor) -> Tensor:
    """Choose a row (B, 1, D); numbers whose squares may leave the range count as zero."""
    some = rows[:, :: rows.shape[1] // CENTRE_ROWS + 1]
    some = torch.where(some.abs() < (2.0**500 if rows.dtype == torch.float64 else 2.0**60), some, 0)
    far = (some - some.mean(1, keepdim=True)).square().sum(2)
    return some.gather(1, far.argmin(1)[:, None, None].expand(-1, 1, rows.shape[2]))


def _unit(rows: Tensor, backend: str) -> Tensor:
    return unit_rows(rows.reshape(-1, rows.shape[2]), backend=backend).view(rows.shape)


def by_distance(distances: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sort distances (B, N, k), smallest first and equal ones by index; those that are not finite were not found."""
    found = (indices >= 0) & distances.isfinite()
    indices, order = indices.masked_fill(~found, -1).sort(2)
    distances = distances.masked_fill(~found, torch.inf).gather(2, order)
    distances, order = torch.sort(distances, dim=2, stable=True)
    return distances, indices.gather(2, order)
