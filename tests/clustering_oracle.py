# SPDX-License-Identifier: Apache-2.0
"""k-means in float64, cluster by cluster, written to be read. It shares no code with the library."""

from __future__ import annotations

from torch import Tensor


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def distances(x: Tensor, centroids: Tensor, metric: str) -> Tensor:
    if metric == "cosine":
        return 1 - x @ centroids.T
    return (x[:, None] - centroids).square().sum(2).sqrt()


def balanced(x: Tensor, centroids: Tensor, temperature: float) -> Tensor:
    """Scale columns and rows of exp(products) to equal sums in turn, and take the largest entry of each row."""
    logits = x @ centroids.T / temperature
    for _ in range(30):
        logits = logits - logits.logsumexp(0, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.argmax(1)


def kmeans(
    x: Tensor,
    centroids: Tensor,
    metric: str = "euclidean",
    iterations: int = 10,
    empty: str = "split",
    temperature: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return centroids and assignment; of equal distances the lower centroid is nearest.

    Clusters are balanced if there is a temperature.
    """

    def assigned() -> Tensor:
        if temperature is None:
            return distances(x, centroids, metric).argmin(1)
        if metric == "cosine":
            return balanced(x, centroids, temperature)
        middle = x.mean(0)
        spread = float((x - middle).square().sum(1).mean())
        return balanced(x - middle, centroids - middle, temperature * spread)

    x, centroids = x.double(), centroids.double().clone()
    if metric == "cosine":
        x, centroids = unit(x), unit(centroids)
    assignment = assigned()
    for _ in range(iterations):
        near = distances(x, centroids, metric)
        sizes = [int((assignment == k).sum()) for k in range(len(centroids))]
        for k, size in enumerate(sizes):
            if size:
                mean = x[assignment == k].mean(0)
                centroids[k] = unit(mean) if metric == "cosine" else mean
        refill(x, near, assignment, centroids, sizes, metric, empty)
        assignment = assigned()
    return centroids, assignment


def refill(
    x: Tensor, near: Tensor, assignment: Tensor, centroids: Tensor, sizes: list[int], metric: str, empty: str
) -> None:
    """Give each empty cluster a part of the next best of the others, which have two rows that differ at least."""
    far = {}
    for k, size in enumerate(sizes):
        members = (assignment == k).nonzero()[:, 0].tolist()
        farthest = max(members, key=lambda i: (float(near[i, k]), -i), default=-1)
        if size > 1 and near[farthest, k] > 1e-9:
            far[k] = farthest
    if empty == "keep":
        return
    best = sorted(far, key=lambda k: (-(sizes[k] if empty == "split" else float(near[far[k], k])), k))
    for k, donor in zip([k for k, size in enumerate(sizes) if not size], best, strict=False):
        row, mean = x[far[donor]], centroids[donor].clone()
        centroids[k] = row if empty == "farthest" else mean + (row - mean) / 4
        if empty == "split":
            centroids[donor] = mean - (row - mean) / 4
        if metric == "cosine":
            centroids[k], centroids[donor] = unit(centroids[k]), unit(centroids[donor])
