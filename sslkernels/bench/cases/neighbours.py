# SPDX-License-Identifier: Apache-2.0
"""The k rows of M that are nearest to each of N rows, by distance, and k-means. KoLeo alone has a gradient."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.bench.cases.case import (
    F32,
    Case,
    Cost,
    Draw,
    Family,
    Inputs,
    Peer,
    Shape,
    Size,
    Step,
    Target,
    targets,
    tiles,
)

FAMILY = Family(
    "neighbours",
    "Neighbours",
    "The nearest rows by distance, k-means and KoLeo, `sslkernels bench run neighbours`; eager is `torch.cdist` and\n"
    "`topk`, and KoLeo as DINOv2 writes it, in float32.",
    ("search, N × M × D, k", "dtype"),
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    """``places`` has as many numbers as neighbours are looked for: arguments are tensors."""
    n, m, d, k = shape
    x, y = draw.normal(n, d), draw.normal(m, d)
    return {"x": draw.ready(x, grad=False), "y": draw.ready(y, grad=False), "places": torch.arange(k, device="cpu")}


def _ours(x: Tensor, y: Tensor, places: Tensor, backend: str) -> Tensor:
    return SF.topk_similarity(x, y, len(places), metric="euclidean", backend=backend)[0]


def eager_topk(x: Tensor, y: Tensor, places: Tensor) -> Tensor:
    if x.dtype != torch.float32:  # torch.cdist takes nothing narrower
        x, y = x.float(), y.float()
    return torch.cdist(x, y).topk(len(places), largest=False).values


def exact_topk(x: Inputs, block: int) -> Tensor:
    rows, keys, k = x["x"], x["y"], len(x["places"])
    squares = keys.square().sum(1)
    parts = [
        (part.square().sum(1, keepdim=True) + squares - 2 * part @ keys.T).clamp_min(0).sqrt().sort(1).values[:, :k]
        for part in rows.split(max(1, block // len(keys)))
    ]
    return torch.cat(parts)


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, m, d, k = shape
    return Cost(2 * n * m * d, 0, (n + m) * d * dtype.itemsize + n * k * 12)


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    if backend == "reference":
        return "every score is stored, and each row is sorted."
    if backend == "triton":
        return "programs keep the best of their columns as packed keys; columns are split to fill the device."
    return f"{tiles(dtype)} Each lane keeps its best; most tiles hold nothing better."


def _arrays(inputs: Inputs) -> Any:
    return inputs["x"].float().numpy(), inputs["y"].float().numpy(), len(inputs["places"])


def _faiss(inputs: Inputs) -> Step:
    import faiss

    rows, keys, k = _arrays(inputs)
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(keys)
    return lambda: torch.from_numpy(index.search(rows, k)[0]).sqrt()


def _sklearn(inputs: Inputs) -> Step:
    from sklearn.metrics import pairwise_distances_argmin_min
    from sklearn.neighbors import NearestNeighbors

    rows, keys, k = _arrays(inputs)
    if k == 1:
        return lambda: torch.from_numpy(pairwise_distances_argmin_min(rows, keys)[1][:, None])
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=torch.get_num_threads()).fit(keys)
    return lambda: torch.from_numpy(search.kneighbors(rows)[0])


_FASTER = targets(*(Target(F32, kind, 1.3) for kind in ("faiss", "sklearn")))

TOPK = Case(
    "topk_similarity",
    FAMILY,
    "nearest",
    ("N", "M", "D", "k"),
    shape_note="by distance",
    inputs=_inputs,
    ours=_ours,
    eager=eager_topk,
    exact=exact_topk,
    search=True,
    peers={
        "faiss": Peer(_faiss, "It adds rows to its index, and widens bfloat16, before it is timed."),
        "sklearn": Peer(_sklearn, "It widens bfloat16 before it is timed."),
        "lightly": "lightly searches by plain PyTorch.",
    },
    cost=_cost,
    pairs=lambda shape: shape[0] * shape[1],
    stored="distances",
    path=_path,
    within=(("k", "M"),),
    row=lambda shape: ("nearest {} × {} × {}, {}".format(*shape),),
    sizes=(
        Size((50000, 1000, 128, 1), "small", _FASTER),
        Size((20000, 4096, 384, 1), "small", _FASTER),
        Size((3722, 16384, 256, 1), "small", _FASTER),
        Size((4096, 16384, 256, 20), "small", _FASTER),
        Size((64, 128, 32, 3), "quick"),
    ),
)


def _clusters(shape: Shape, draw: Draw) -> dict[str, Any]:
    """Draw rows around K centres; the first K are the starts. No rounding changes which start is nearest to a row."""
    n, k, d = shape
    x = draw.normal(k, d)[torch.arange(n) % k] + 0.5 * draw.normal(n, d)
    return {"x": draw.ready(x, grad=False), "starts": draw.ready(x[:k].clone(), grad=False)}


def _kmeans(x: Tensor, starts: Tensor, backend: str) -> Tensor:
    return SF.kmeans(x, len(starts), iterations=1, init=starts, backend=backend)[0]


def eager_kmeans(x: Tensor, starts: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        x, starts = x.float(), starts.float()
    own = torch.cdist(x, starts).argmin(1)
    sums = torch.zeros_like(starts).index_add_(0, own, x)
    centroids = sums / own.bincount(minlength=len(starts))[:, None]
    torch.cdist(x, centroids).argmin(1)
    return centroids


def exact_kmeans(x: Inputs, block: int) -> Tensor:
    rows, starts = x["x"], x["starts"]
    half = starts.square().sum(1) / 2
    own = torch.cat([(part @ starts.T - half).argmax(1) for part in rows.split(max(1, block // len(starts)))])
    order = own.argsort()
    return torch.stack([part.mean(0) for part in rows[order].split(own.bincount(minlength=len(starts)).tolist())])


def _kmeans_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, k, d = shape
    return Cost(4 * n * k * d, 0, (n + k) * d * dtype.itemsize + 4 * k * d + 8 * n)


def _faiss_kmeans(inputs: Inputs) -> Step:
    import faiss

    rows, starts = inputs["x"].float().numpy(), inputs["starts"].float().numpy()
    faiss.omp_set_num_threads(torch.get_num_threads())
    means = faiss.Kmeans(rows.shape[1], len(starts), niter=1, min_points_per_centroid=1, max_points_per_centroid=10**9)

    def step() -> Tensor:
        means.train(rows, init_centroids=starts)
        means.assign(rows)
        return torch.from_numpy(means.centroids)

    return step


def _sklearn_kmeans(inputs: Inputs) -> Step:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows, starts = inputs["x"].float().numpy(), inputs["starts"].float().numpy()
    means = KMeans(len(starts), init=starts, n_init=1, max_iter=1)

    def step() -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return torch.from_numpy(means.fit(rows).cluster_centers_)

    return step


KMEANS = Case(
    "kmeans",
    FAMILY,
    "k-means",
    ("N", "K", "D"),
    shape_note="one iteration, and the nearest centroids before and after it",
    not_recorded="kmeans looks after each iteration if rows moved, so its launches are known on the device alone.",
    inputs=_clusters,
    ours=_kmeans,
    eager=eager_kmeans,
    exact=exact_kmeans,
    search=True,
    peers={
        "faiss": Peer(_faiss_kmeans, "It widens bfloat16 before it is timed."),
        "sklearn": Peer(_sklearn_kmeans, "It widens bfloat16 before it is timed."),
        "lightly": "lightly has no k-means.",
    },
    cost=_kmeans_cost,
    pairs=lambda shape: shape[0] * shape[1],
    stored="distances",
    path=lambda backend, shape, dtype, device: (
        f"{_path(backend, shape, dtype, device)} Rows are sorted by cluster and summed piece by piece."
    ),
    within=(("K", "N"),),
    row=lambda shape: ("k-means {} × {} × {}".format(*shape),),
    sizes=(
        Size((50000, 1000, 128), "small", _FASTER),
        Size((20000, 4096, 384), "small", _FASTER),
        Size((256, 16, 32), "quick"),
    ),
)

# KoLeo, whose gradient reaches both rows of a pair


def _spread_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    """Draw rows in fours around one of them. No rounding changes which row is nearest, and one is that of three."""
    n, d = shape
    noise = draw.normal(n, d)
    away = torch.tensor([0.0, 0.5, 1.0, 1.0], device=noise.device)[torch.arange(n, device=noise.device) % 4]
    return {"x": draw.ready(draw.normal(-(-n // 4), d).repeat_interleave(4, 0)[:n] + away[:, None] * noise)}


def eager_koleo(x: Tensor) -> Tensor:
    """Take the largest of all products, and then a distance. Products of bfloat16 would find other rows."""
    unit = F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1, eps=1e-8)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-1).argmax(1)
    return -(F.pairwise_distance(unit, unit[nearest], eps=1e-8) + 1e-8).log().mean()


def exact_koleo(x: Inputs, block: int) -> Tensor:
    """Search in float64 in any dtype, since a wrong row is no rounding."""
    rows = x["x"]
    unit = rows / rows.square().sum(1, keepdim=True).sqrt()
    found, start = [], 0
    every = (rows.detach().double() / rows.detach().double().norm(dim=1, keepdim=True)).contiguous()
    for part in every.split(max(1, block // len(rows))):
        products = part @ every.T
        own = torch.arange(len(part), device=rows.device)
        products[own, start + own] = -torch.inf
        found.append(products.topk(1, dim=1).indices[:, 0])
        start += len(part)
    return -(unit - unit[torch.cat(found)]).square().sum(1).log().mean() / 2


def _spread_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """Half of the symmetric products; the backward moves both rows of a pair and projects them."""
    n, d = shape
    return Cost(n * n * d, 8 * n * d, 2 * n * d * dtype.itemsize)


def _spread_path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    return f"unit rows, then the nearest: {_path(backend, shape, torch.float32, device)} Gradients are gathered by row."


KOLEO = Case(
    "koleo",
    FAMILY,
    "KoLeo",
    ("N", "D"),
    shape_note="rows of one group",
    inputs=_spread_inputs,
    ours=SF.koleo,
    eager=eager_koleo,
    exact=exact_koleo,
    peers={
        "faiss": "faiss has no gradient.",
        "sklearn": "scikit-learn has no gradient.",
        "lightly": "lightly's KoLeoLoss is eager's.",
    },
    cost=_spread_cost,
    pairs=lambda shape: shape[0] ** 2,
    stored="products",
    path=_spread_path,
    row=lambda shape: ("KoLeo {} × {}".format(*shape),),
    sizes=(
        Size((4096, 1024), "small", targets(), recipe_too=True),
        Size((64, 1024), "small", targets()),
        Size((64, 32), "quick"),
    ),
)

CASES = (TOPK, KMEANS, KOLEO)
