# SPDX-License-Identifier: Apache-2.0
"""The k rows of M that are nearest to each of N rows, by distance. There is no gradient."""

from __future__ import annotations

from typing import Any

import torch
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
    "The nearest rows by distance, `sslkernels bench run neighbours`; eager is `torch.cdist` and `topk`.",
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

CASES = (TOPK,)
