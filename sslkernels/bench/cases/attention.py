# SPDX-License-Identifier: Apache-2.0
"""Attention averages values under the softmax of similarities. Its dense path stores all weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.bench.cases.case import Case, Cost, Draw, Family, Inputs, Shape, Size, targets, tiles

SCALE = 1 / 0.1

FAMILY = Family(
    "attention",
    "Attention",
    "Values averaged by the softmax of similarities, as soft targets are, `sslkernels bench run attention`.",
    ("op, N × M × D", "dtype"),
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    n, m, d = shape
    query, keys = (F.normalize(draw.normal(rows, d), dim=1) for rows in (n, m))
    return {
        "query": draw.ready(query),
        "keys": draw.ready(keys),
        "values": draw.ready(draw.normal(m, d)),
        "bias": draw.ready(draw.normal(m)),
    }


def eager_attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax((query * SCALE) @ keys.T + bias, 1) @ values


def exact_attend(x: Inputs, block: int) -> Tensor:
    """Divide sums of exponentials, some rows at a time."""

    def of_rows(rows: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        logits = SCALE * rows @ keys.T + bias
        weights = (logits - logits.detach().amax(1, keepdim=True)).exp()
        return (weights @ values) / weights.sum(1, keepdim=True)

    size, others = max(1, block // len(x["keys"])), (x["keys"], x["values"], x["bias"])
    return torch.cat([checkpoint(of_rows, part, *others, use_reentrant=False) for part in x["query"].split(size)])


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """The forward takes the logits and the products with the values; each backward product serves one gradient."""
    n, m, d = shape
    return Cost(4 * n * m * d, 8 * n * m * d, (4 * n + 4 * m) * d * dtype.itemsize)


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    if backend == "reference":
        return "dense: the whole matrix of weights is stored, in float32 at least."
    words = "one flash pass keeps a running maximum; the backward forms logits and weights again, a tile at a time"
    if backend == "triton":
        return f"{words}, once for the queries and once for the keys."
    return f"{words}, and each tile serves all gradients. {tiles(dtype)}"


ATTEND = Case(
    "attend_similarity",
    FAMILY,
    "attend_similarity",
    ("N", "M", "D"),
    shape_note="as many features of the values; all inputs get gradients",
    inputs=_inputs,
    ours=partial(SF.attend_similarity, scale=SCALE),
    eager=eager_attend,
    exact=exact_attend,
    peers={"lightly": "lightly forms soft targets densely, inside its losses."},
    cost=_cost,
    pairs=lambda shape: shape[0] * shape[1],
    stored="weights",
    path=_path,
    sizes=(
        Size((128, 4096, 64), "small", targets()),
        Size((2048, 8192, 128), "small", targets()),
        Size((512, 65536, 256), "small", targets(), recipe_too=True),
        Size((32, 96, 16), "quick"),
    ),
)

CASES = (ATTEND,)
