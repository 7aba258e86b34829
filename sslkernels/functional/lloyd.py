# SPDX-License-Identifier: Apache-2.0
"""The steps of k-means: rows find their centroid, centroids move to the mean of their rows, empty clusters get some.

Ranks each hold some of the rows, and all centroids. Sums, counts and maxima of all rows are formed by all-reduces, so
that centroids stay the same on all ranks. Nothing depends on the order in which threads or programs run.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.distributed import Shard, highest, summed
from sslkernels.ops.dtypes import wide
from sslkernels.ops.neighbours import topk_similarity
from sslkernels.ops.rows import unit_rows

# Rows that are summed one after another. Their sums are summed again: one large cluster has many threads, and rounding
# grows with the root of its size.
TOGETHER = 1024
# Columns of 16-bit rows that are widened at once.
COLUMNS = 64
# A cluster is cut through its mean, at right angles to its farthest row. The halves begin a quarter of the way to that
# row and as far to the other side, which is about where the means of the halves of a Gaussian lie.
SPLIT = 0.25


def nearest(x: Tensor, centroids: Tensor, metric: str, backend: str | None) -> tuple[Tensor, Tensor]:
    """Find the centroid of each row, and how far it is: the distance, or one less the cosine of unit rows."""
    keys = centroids.to(x.dtype)
    if metric == "euclidean":
        distance, assignment = topk_similarity(x, keys, metric="euclidean", backend=backend)
        return distance[:, 0], assignment[:, 0]
    cosine, assignment = topk_similarity(x, keys, backend=backend)
    return 1 - cosine[:, 0], assignment[:, 0]


def sums_and_counts(x: Tensor, assignment: Tensor, clusters: int, shard: Shard) -> tuple[Tensor, Tensor]:
    """Sum the rows ``(K, D)`` of each cluster over all ranks, and count them."""
    ordered, order = assignment.sort(stable=True)
    edges = torch.searchsorted(ordered, torch.arange(clusters + 1, device=x.device))
    return summed(_segment_sums(x, order, edges[:-1]), shard), summed(edges.diff(), shard)


def _segment_sums(x: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Sum the rows ``x[order]`` from each start to the next, in the dtype of sums."""
    dtype = wide(x.dtype)
    if not len(order):
        return x.new_zeros((len(starts), x.shape[1]), dtype=dtype)
    pieces = torch.cat([starts, torch.arange(0, len(order), TOGETHER, device=x.device)]).sort().values
    owner = torch.searchsorted(starts, pieces, right=True) - 1
    columns = x.shape[1] if x.dtype == dtype else COLUMNS
    parts = [F.embedding_bag(order, part.to(dtype), pieces, mode="sum") for part in x.split(columns, 1)]
    first = torch.searchsorted(owner, torch.arange(len(starts), device=x.device))
    return F.embedding_bag(torch.arange(len(pieces), device=x.device), torch.cat(parts, 1), first, mode="sum")


def means(centroids: Tensor, sums: Tensor, counts: Tensor, metric: str) -> Tensor:
    """Move centroids to the means of their rows, or to the unit rows of these; one without rows, or whose rows cancel,
    stays where it is."""
    moved = sums / counts.clamp_min(1)[:, None]
    stays = counts == 0
    if metric == "cosine":
        stays |= (moved == 0).all(1)
        moved = unit_rows(moved, backend="reference")
    return torch.where(stays[:, None], centroids, moved)


def refill(
    x: Tensor,
    centroids: Tensor,
    found: tuple[Tensor, Tensor],
    counts: Tensor,
    metric: str,
    empty: str,
    near: float,
    shard: Shard,
) -> bool:
    """Move the centroids of empty clusters in place, and tell if any moved.

    Each takes from another cluster: the largest ones are split, or those with the farthest rows lose such a row. None
    is taken from twice, and none whose rows are all as near as ``near``.
    """
    places = (counts == 0).nonzero()[:, 0]
    distance, assignment = found
    if empty == "keep" or not len(places):
        return False
    none = distance.new_zeros(len(centroids))
    radius = highest(none.scatter_reduce(0, assignment, distance, "amax"), shard)
    total = shard.total(len(x))
    index = torch.arange(shard.start, shard.start + len(x), device=x.device)
    index = torch.where(distance == radius[assignment], index, total)
    farthest = -highest(-counts.new_full(counts.shape, total).scatter_reduce(0, assignment, index, "amin"), shard)
    worth = (counts if empty == "split" else radius).masked_fill((counts < 2) | (radius <= near), 0)
    donors = worth.argsort(descending=True, stable=True)[: len(places)]
    donors = donors[worth[donors] > 0]
    places = places[: len(donors)]
    rows = rows_at(x, farthest[donors], shard)
    if empty == "split":
        step = SPLIT * (rows - centroids[donors])
        rows = centroids[donors] + step
        centroids[donors] -= step
        if metric == "cosine":
            rows = unit_rows(rows, backend="reference")
            centroids[donors] = unit_rows(centroids[donors], backend="reference")
    centroids[places] = rows
    return len(places) > 0


def rows_at(x: Tensor, index: Tensor, shard: Shard) -> Tensor:
    """Take rows by their places among those of all ranks, in the dtype of sums, on every rank."""
    local = index - shard.start
    rows = x.new_zeros((len(index), x.shape[1]), dtype=wide(x.dtype))
    if len(x):
        here = (local >= 0) & (local < len(x))
        rows = torch.where(here[:, None], x[local.clamp(0, len(x) - 1)].to(rows.dtype), rows)
    return summed(rows, shard)
