# SPDX-License-Identifier: Apache-2.0
"""Cluster the centroids of clusters, and draw rows from all clusters alike, to balance a collection of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_choice,
    check_count,
    check_device,
    check_generator,
    check_list,
    check_rows,
    check_size,
    check_tensor,
    shape_of,
)
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional.clustering import EMPTY, INITS, METRICS, kmeans, kmeans_of_shared
from sslkernels.functional.starts import device_of


def hierarchical_kmeans(
    x: Tensor,
    sizes: Sequence[int],
    *,
    metric: str = "euclidean",
    iterations: int = 10,
    init: str = "k-means++",
    empty: str = "split",
    generator: torch.Generator | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Cluster rows, then the centroids of these clusters, and so on (Vo et al. 2024).

    Clusters of rows are many where rows are dense. Those of centroids spread more evenly over what the rows show, the
    more so the more levels there are.

    Args:
        x: rows ``(N, D)``, as in `kmeans`.
        sizes: centroids of each level, from the level of rows upwards; none has more than the one before it.
        metric, iterations, init, empty, generator: of each level, as in `kmeans`; ``init`` is a name.
        group: ranks whose rows are clustered together, as in `kmeans`. Ranks share the centroids of higher levels.
        backend: see `topk_similarity`.

    Returns:
        For each level its centroids ``(K, D)``, and the cluster ``(N,)`` of each row: that of its cluster one level
        below. `balanced_sample` takes these.

    The authors also draw the rows nearest to each centroid and cluster these alone, ten times a level. We do not: call
    `kmeans` on such rows for that.

    Cost: that of `kmeans` on x, and on the centroids of each level but the last.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> levels = SF.hierarchical_kmeans(torch.randn(500, 8), (50, 5))
    >>> [(tuple(centroids.shape), tuple(assignment.shape)) for centroids, assignment in levels]
    [((50, 8), (500,)), ((5, 8), (500,))]
    """
    function = "hierarchical_kmeans"
    check_rows(function, "x", x)
    sizes = check_list(function, "sizes", sizes, "the numbers of centroids of each level, such as (1000, 100)")
    if not sizes:
        raise ValueError(f"{function}: sizes is empty; pass the number of centroids of one level at least.")
    sizes[0] = check_count(function, "sizes[0]", sizes[0], x.shape[1])
    for place, size in enumerate(sizes[1:], 1):
        sizes[place] = check_size(function, f"sizes[{place}]", size, most=sizes[place - 1])
    options: dict[str, Any] = {
        "metric": check_choice(function, "metric", metric, METRICS),
        "iterations": check_size(function, "iterations", iterations, least=0),
        "init": check_choice(function, "init", init, INITS),
        "empty": check_choice(function, "empty", empty, EMPTY),
    }
    generator = check_generator(function, generator)
    shard_of(group, function, x.detach(), sizes=sizes, **options)  # ranks agree before they share any work
    options |= {"generator": generator, "group": group, "backend": backend}
    levels = [kmeans(x, sizes[0], **options)]
    for size in sizes[1:]:
        below, assignment = levels[-1]
        centroids, above = kmeans_of_shared(below, size, **options)
        levels.append((centroids, above[assignment]))
    return levels


def balanced_sample(
    assignment: Tensor | Sequence[Tensor], count: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw rows from clusters as evenly as their sizes allow (Vo et al. 2024).

    Each cluster of size s gives ``min(s, cut)`` rows, with the one cut for which these add up to ``count``. If none
    does, some clusters that have more, drawn at random, give one more. Rows of a cluster are as likely, and none is
    drawn twice.

    Of several levels the highest is balanced first. The number of each of its clusters is then divided among the
    clusters that it is made of, in the same way, with a cut of their own, and so on down to rows.

    Args:
        assignment: int64 ``(N,)``, the cluster of each row; or one for each level, from the lowest upwards, as
            `hierarchical_kmeans` gives them. Any numbers from 0.
        count: rows to draw, from 0 to N.
        generator: None draws from torch's global state. One on the CPU draws the same on every device.

    Returns:
        int64 ``(count,)``, the rows, in ascending order.

    Raises:
        ValueError: negative clusters, or one that lies in two clusters of the level above.

    Cost: two sorts of N numbers for each level, and some 20 passes over its clusters. The host waits for the device.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> sample = SF.balanced_sample(torch.tensor([0] * 90 + [1] * 8 + [2] * 2), 12)
    >>> sample.lt(90).sum().item(), sample.ge(98).sum().item()
    (5, 2)
    """
    function = "balanced_sample"
    levels = [assignment] if isinstance(assignment, Tensor) else assignment
    levels = check_list(function, "assignment", levels, "int64 (N,), or a list of one for each level")
    if not levels:
        raise ValueError(f"{function}: assignment is empty; pass one level at least.")
    levels = [_check_level(f"assignment[{place}]", level, levels[0]) for place, level in enumerate(levels)]
    device, rows = levels[0].device, len(levels[0])
    count = check_size(function, "count", count, least=0, most=rows)
    generator = check_generator(function, generator)
    quota, above = torch.tensor([count], device=device), torch.zeros_like(levels[0])
    for level in reversed(levels):
        level, sizes = level.unique(return_inverse=True, return_counts=True)[1:]
        parent = torch.zeros_like(sizes).scatter_(0, level, above)
        if not torch.equal(parent[level], above):
            raise ValueError(
                f"{function}: assignment has a cluster with rows in several clusters of the next level; "
                "pass levels from the lowest upwards, each made of the clusters below."
            )
        quota, above = _divided(quota, parent, sizes, generator), level
    return _divided(quota, above, torch.ones_like(above), generator).nonzero()[:, 0]


def _divided(quota: Tensor, parent: Tensor, sizes: Tensor, generator: torch.Generator | None) -> Tensor:
    """Divide the quota of each parent among its children: as much for each as it has, but no more than the cut."""

    def given(cut: Tensor) -> Tensor:
        return torch.minimum(sizes, cut[parent])

    def total(each: Tensor) -> Tensor:
        return torch.zeros_like(quota).index_add_(0, parent, each)

    # The largest cut that does not give too much lies from `low` on and below `high`.
    largest = int(sizes.amax())
    low, high = torch.zeros_like(quota), torch.full_like(quota, largest + 1)
    for _ in range(largest.bit_length() + 1):
        middle = (low + high) // 2
        fits = total(given(middle)) <= quota
        low, high = torch.where(fits, torch.maximum(middle, low), low), torch.where(fits, high, middle)
    each = given(low)
    left = quota - total(each)
    # Children that have more get what is left, one each: the first in a random order.
    order = torch.randperm(len(sizes), generator=generator, device=device_of(generator)).to(sizes.device)
    order = order[(sizes > each)[order]]
    ordered, within = parent[order].sort(stable=True)
    order = order[within]
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    each[order[place < left[ordered]]] += 1
    return each


def _check_level(name: str, value: object, first: Any) -> Tensor:
    level = check_tensor("balanced_sample", name, value, "(N,), int64, the cluster of each row")
    if level.dtype != torch.int64:
        raise TypeError(f"balanced_sample: {name} has dtype {level.dtype}; pass int64 clusters.")
    if level.dim() != 1 or not len(level) or level.shape != first.shape:
        raise ValueError(f"balanced_sample: {name} has shape {shape_of(level)}; pass (N,), one cluster for each row.")
    check_device("balanced_sample", name, level, "assignment[0]", first)
    if (low := int(level.amin())) < 0:
        raise ValueError(f"balanced_sample: {name} holds {low}; clusters are numbered from 0.")
    return level
