# SPDX-License-Identifier: Apache-2.0
"""Rows are multiplied with K rows each that were sampled for them. The dense path stores the N*K rows of D numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.bench.cases.case import Case, Cost, Draw, Family, Inputs, Shape, Size, bytes_in_words, targets

_PIRL = (256, 50_000, 32_000, 128)

FAMILY = Family(
    "sampled",
    "Sampled pairs",
    "Products with rows that were sampled, `sslkernels bench run sampled`: wav2vec 2.0's 100 negatives, PIRL's 32,000.",
    ("op, N × M × K × D", "dtype"),
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    """Draw indices uniformly; a row of the pool may come twice in a row."""
    n, m, k, d = shape
    index = (draw.uniform(n, k) * m).long().clamp_max(m - 1).to(draw.device)
    return {"x": draw.ready(draw.normal(n, d)), "y": draw.ready(draw.normal(m, d)), "index": index}


def eager_gather_similarity(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    return torch.einsum("nd,nkd->nk", x, y[index])


def exact_gather_similarity(x: Inputs, block: int) -> Tensor:
    """Form all products of some rows with the whole pool, and pick."""
    size = max(1, block // len(x["y"]))
    parts = zip(x["x"].split(size), x["index"].split(size), strict=True)
    return torch.cat([(rows @ x["y"].T).gather(1, index) for rows, index in parts])


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """Count a multiply-add per number of each pair forward, and two backward. Index and result are moved too."""
    n, m, k, d = shape
    return Cost(2 * n * k * d, 4 * n * k * d, 3 * (n + m) * d * dtype.itemsize + n * k * (8 + 8))


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    n, m, k, d = shape
    if backend == "reference":
        return "some rows at a time, so that the rows they name are at most 4 Mi numbers."
    pairs = bytes_in_words(n * k * (8 if backend == "cpu" else 30))
    return (
        "rows of the pool are read where they lie and multiplied at once; the backward sorts the pairs by row of the "
        f"pool, which takes {pairs}, and writes each row of the gradient once, without atomics."
    )


GATHER_SIMILARITY = Case(
    "gather_similarity",
    FAMILY,
    "sampled products",
    ("N", "M", "K", "D"),
    inputs=_inputs,
    ours=SF.gather_similarity,
    eager=eager_gather_similarity,
    exact=exact_gather_similarity,
    peers={"lightly": "lightly has no loss with sampled negatives."},
    cost=_cost,
    pairs=lambda shape: shape[0] * shape[2] * shape[3],
    stored="rows of the pool",
    path=_path,
    sizes=(
        Size((2048, 2048, 100, 256), "small", targets()),
        Size(_PIRL, "recipe", targets()),
        Size((16, 20, 8, 32), "quick"),
    ),
)

CASES = (GATHER_SIMILARITY,)
