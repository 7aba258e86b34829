# SPDX-License-Identifier: Apache-2.0
"""Cluster rows around centroids, without the matrix of their distances."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import (
    came,
    check_choice,
    check_count,
    check_device,
    check_flag,
    check_generator,
    check_number,
    check_rows,
    check_size,
    shape_of,
)
from sslkernels.distributed import GroupLike, Shard, all_rows, broadcast, highest, shard_of, summed
from sslkernels.functional.balance import balanced_nearest, centred
from sslkernels.functional.lloyd import means, nearest, refill, sums_and_counts
from sslkernels.functional.starts import plus_plus, random_rows
from sslkernels.ops.dtypes import wide
from sslkernels.ops.neighbours import NEIGHBOURS
from sslkernels.ops.rows import unit_rows

METRICS = ("euclidean", "cosine")
EMPTY = ("split", "farthest", "keep")
INITS = ("k-means++", "random")
# Squares of numbers beyond 2^40, and below its inverse, may leave the range of float32.
ORDINARY = 2.0**40


@torch.no_grad()
def kmeans(
    x: Tensor,
    k: int,
    *,
    metric: str = "euclidean",
    iterations: int = 10,
    init: str | Tensor = "k-means++",
    empty: str = "split",
    balanced: bool = False,
    temperature: float = 0.05,
    generator: torch.Generator | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Find k centroids, and the nearest one of each row (Lloyd 1982; spherical: Dhillon and Modha 2001).

    An iteration moves each centroid to the mean of its rows, and each row to its nearest centroid, with

        euclidean:  ``a_i = argmin_k |x_i - c_k|``,  ``c_k = mean_(i of k) x_i``
        cosine:     ``a_i = argmax_k <x_i, c_k>``,   ``c_k = s_k / |s_k|``, ``s_k = sum_(i of k) x_i``, of unit rows

    It ends when no row moves, and otherwise after ``iterations``.

    Args:
        x: rows ``(N, D)``; float32, float64, bfloat16 or float16.
        k: centroids, from 1 to N.
        metric: ``"euclidean"``, or ``"cosine"`` for spherical k-means. Rows need not be unit rows. A row of zeros is as
            far from all centroids.
        iterations: how often centroids move at most; with 0 rows find the centroids of ``init``.
        init: ``"k-means++"`` draws rows one after another by their squared distance to those before (Arthur and
            Vassilvitskii 2007), ``"random"`` all at once; or centroids ``(K, D)`` of any floating-point dtype.
        empty: what happens to a cluster without rows. ``"split"`` divides the largest clusters, as faiss does, so that
            sizes stay near each other and an outlier gets no cluster of its own. We cut a cluster through its mean,
            where faiss shifts the centroid by a thousandth of itself: that depends on where the origin is.
            ``"farthest"`` takes the row that is farthest from its centroid, as scikit-learn does; at most one of each
            cluster and iteration. ``"keep"`` leaves the centroid where it was.
        balanced: spread the rows over the clusters, so that their sizes are about the same:
            ``a_i = argmax_k <x_i, c_k> / t + u_k``, in which u is the `sinkhorn_bias` of all rows after 30 iterations.
            A row's centroid need not be the nearest. With ``"euclidean"`` the origin is the mean of all rows.
        temperature: t, where ``balanced``: of cosines, or as a share of the mean squared distance of rows from their
            mean. Sizes are less alike with a larger one, and ones below 0.02 have not converged.
        generator: None draws from torch's global state. One on the CPU draws the same on every device.
        group: ranks whose rows are clustered together; a rank may hold none. Centroids are the same on all ranks, and
            but for the rounding of sums those that one process finds. The first rank's generator, and its ``init``,
            count.
        backend: see `topk_similarity`.

    Returns:
        ``centroids``, float32 ``(K, D)`` (float64 for float64 rows), and ``assignment``, int64 ``(N,)``, that of each
        row: the nearest of these, of equally near ones the lower, unless ``balanced``. Neither has a gradient.

    Raises:
        ValueError, TypeError: more centroids than rows, entries that are infinite or NaN, unlike shapes.

    The same rows, generator and number of ranks give the same bits. Sums are float32 (float64), whatever the rows are;
    16-bit rows are compared with centroids that are rounded to their dtype.

    A cluster may still be empty at the end: in the last iteration, or where there are fewer different rows than k.
    The host waits for its device in every iteration, to see if rows moved; ``torch.compile`` breaks its graph here.

    Cost: ``2*N*K*D`` operations an iteration, and ``2*N*K*D`` for k-means++, whose k passes over the rows take longer
    than several iterations. ``O(N + K*D)`` memory, and a copy of the rows with ``"cosine"``, or where numbers lie
    beyond 2^40. Ranks send ``K*D`` sums an iteration, and ``D`` numbers for each row that k-means++ draws.
    ``balanced`` adds 30 iterations of `sinkhorn_bias` to each, and its memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> SF.kmeans(x, 2, init=x[:2])
    (tensor([[ 0.5000],
            [10.5000]]), tensor([0, 0, 1, 1]))
    """
    function = "kmeans"
    x = check_rows(function, "x", x).detach()
    k = check_count(function, "k", k, x.shape[1])
    metric = check_choice(function, "metric", metric, METRICS)
    iterations = check_size(function, "iterations", iterations, least=0)
    _check_init(init, k, x)
    empty = check_choice(function, "empty", empty, EMPTY)
    balanced = check_flag(function, "balanced", balanced)
    temperature = check_number(function, "temperature", temperature, above=0)
    generator = check_generator(function, generator)
    NEIGHBOURS.choose(x.device, x.dtype, backend)
    kind = init if isinstance(init, str) else "a tensor"
    settings = {"k": k, "metric": metric, "iterations": iterations, "init": kind, "empty": empty}
    shard = shard_of(group, function, x, **settings, balanced=balanced, temperature=temperature)
    rows = shard.total(len(x))
    if k > rows:
        raise ValueError(f"{function}: k is {k} and there are {rows} rows; pass a k from 1 to their number.")
    with torch.autocast(x.device.type, enabled=False):
        init = broadcast(init.detach(), shard).to(wide(x.dtype), copy=True) if isinstance(init, Tensor) else init
        x, size, exponent = _in_range(x, init, metric, shard, backend)
        origin: Tensor | float = 0.0
        if balanced and metric == "euclidean":
            x, origin, square = centred(x, shard)
            temperature *= square or 1.0
        if isinstance(init, Tensor):
            centroids = unit_rows(init, backend="reference") if metric == "cosine" else _scaled(init, exponent) - origin
        elif init == "random":
            centroids = random_rows(x, k, generator, shard)
        else:
            centroids = plus_plus(x, k, generator, shard, backend)
        # Equal rows are so far at most from their mean, both rounded.
        near = max(64 * torch.finfo(centroids.dtype).eps, torch.finfo(x.dtype).eps) * size
        search = partial(nearest, x, metric=metric, backend=backend)
        if balanced:
            search = partial(balanced_nearest, x, metric=metric, temperature=temperature, group=group, backend=backend)
        found = search(centroids)
        for _ in range(iterations):
            sums, counts = sums_and_counts(x, found[1], k, shard)
            centroids = means(centroids, sums, counts, metric)
            refilled = refill(x, centroids, found, counts, metric, empty, near, shard)
            before, found = found, search(centroids)
            if not refilled and not summed((before[1] != found[1]).sum(), shard):
                break
    return _scaled(centroids + origin, -exponent), found[1]


def kmeans_of_shared(rows: Tensor, k: int, *, group: GroupLike, **options: Any) -> tuple[Tensor, Tensor]:
    """Cluster rows that all ranks have: each works on a part of them, and all get the clusters of all rows."""
    ranks = shard_of(group, "kmeans", rows[:1], k=k)
    part = rows.tensor_split(ranks.ranks)[ranks.rank]
    centroids, assignment = kmeans(part, k, group=group, **options)
    return centroids, all_rows(assignment, shard_of(group, "kmeans", part, k=k))


def _check_init(init: object, k: int, x: Tensor) -> None:
    if not isinstance(init, Tensor):
        if not isinstance(init, str) or init not in INITS:
            raise ValueError(
                f"kmeans: init is {came(init)}; accepted are {', '.join(map(repr, INITS))} and centroids (K, D)."
            )
        return
    check_rows("kmeans", "init", init, "(K, D), one centroid each")
    if init.shape != (k, x.shape[1]):
        raise ValueError(f"kmeans: init has shape {shape_of(init)}; expected ({k}, {x.shape[1]}), one centroid each.")
    check_device("kmeans", "init", init, "x", x)


def _in_range(
    x: Tensor, init: str | Tensor, metric: str, shard: Shard, backend: str | None
) -> tuple[Tensor, float, int]:
    """Return the rows, the largest number in rows and ``init``, and the power of two by which both are multiplied."""
    largest = _largest("x", x, shard)
    if isinstance(init, Tensor):
        largest = max(largest, _largest("init", init, shard))
    if metric == "cosine":
        return unit_rows(x, backend=backend), 1.0, 0
    if largest == 0 or 1 / ORDINARY < largest < ORDINARY:
        return x, largest, 0
    exponent = -math.frexp(largest)[1]
    return _scaled(x.to(wide(x.dtype)), exponent), math.ldexp(largest, exponent), exponent


def _scaled(x: Tensor, exponent: int) -> Tensor:
    """Multiply by a power of two, in two steps, since neither must leave the range."""
    half = exponent // 2
    return x * 2.0**half * 2.0 ** (exponent - half) if exponent else x


def _largest(name: str, rows: Tensor, shard: Shard) -> float:
    """Find the largest size of a number of any rank. All ranks raise if one of them holds what is no number."""
    low, high = rows.aminmax() if rows.numel() else (rows.new_zeros(()),) * 2
    largest = torch.maximum(-low, high).to(wide(rows.dtype))
    found = highest(torch.where(largest.isfinite(), largest, torch.inf), shard).item()
    if found == math.inf:
        where = "" if shard.ranks == 1 else " on some rank"
        raise ValueError(f"kmeans: {name} holds NaN or an infinite number{where}; leave such rows out.")
    return found
