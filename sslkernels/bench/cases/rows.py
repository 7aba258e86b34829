# SPDX-License-Identifier: Apache-2.0
"""Losses that compare a row with its partner, and patches of an image with each other. Norms of rows are ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.bench.cases.case import Case, Cost, Draw, Family, Inputs, Peer, Shape, Size, Step, in_both, targets

FAMILY = Family(
    "rows",
    "Rows",
    "A loss of each row and its partner alone, and one of the Gram matrices of patches, B × P × D,\n"
    "`sslkernels bench run rows`; eager writes the latter as DINOv3 does, in float32.",
)


def _byol_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    prediction, target = draw.views(*shape)
    return {"prediction": draw.ready(prediction), "target": draw.ready(target, grad=False)}


def eager_byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    return 2 - 2 * F.cosine_similarity(prediction, target).mean()


def exact_byol_loss(x: Inputs, block: int) -> Tensor:
    return (F.normalize(x["prediction"], dim=1) - F.normalize(x["target"], dim=1)).square().sum(1).mean()


def _byol_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """The forward takes a product and two squares, the backward a combination of both rows."""
    n, d = shape
    return Cost(6 * n * d, 3 * n * d, 5 * n * d * dtype.itemsize)


def _byol_path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    if backend == "reference":
        return "row by row in PyTorch; the unit rows of both sides are stored."
    return "both rows are read once for their product and norms; the backward reads them once more, and keeps no rows."


def _lightly_byol(inputs: Inputs) -> Step:
    from lightly.loss import NegativeCosineSimilarity

    cosine = NegativeCosineSimilarity()
    return lambda: 2 + 2 * cosine(inputs["prediction"], inputs["target"])


BYOL = Case(
    "byol_loss",
    FAMILY,
    "BYOL",
    ("N", "D"),
    shape_note="a frozen target",
    inputs=_byol_inputs,
    ours=SF.byol_loss,
    eager=eager_byol_loss,
    exact=exact_byol_loss,
    peers={"lightly": Peer(_lightly_byol)},
    cost=_byol_cost,
    pairs=lambda shape: shape[0] * shape[1],
    stored="unit rows",
    path=_byol_path,
    sizes=(
        Size((64, 128), "small", targets(*in_both("eager", 2.0), *in_both("compile", 1.5))),
        Size((4096, 256), "small", targets()),
        Size((64, 32), "quick"),
    ),
)

# Gram matrices of patches


def _gram_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    target = draw.normal(*shape)
    return {"x": draw.ready(target + 0.5 * draw.normal(*shape)), "target": draw.ready(target, grad=False)}


def eager_gram_loss(x: Tensor, target: Tensor) -> Tensor:
    student, teacher = (F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1) for z in (x, target))
    return F.mse_loss(student @ student.mT, teacher @ teacher.mT)


def exact_gram_loss(inputs: Inputs, block: int) -> Tensor:
    """Subtract similarities of some rows of one image at a time."""

    def of_rows(x: Tensor, y: Tensor, rows: slice) -> Tensor:
        x, y = (z / z.square().sum(1, keepdim=True).sqrt() for z in (x, y))
        return (x[rows] @ x.T - y[rows] @ y.T).square().sum()

    total, patches = inputs["x"].new_zeros(()), inputs["x"].shape[1]
    size = max(1, block // patches)
    for x, y in zip(inputs["x"], inputs["target"], strict=True):
        for start in range(0, patches, size):
            total = total + checkpoint(of_rows, x, y, slice(start, start + size), use_reentrant=False)
    return total / (len(inputs["x"]) * patches**2)


def _gram_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """The forward takes halves of two symmetric products, the backward one whole product."""
    b, p, d = shape
    return Cost(2 * b * p * p * d, 2 * b * p * p * d, 3 * b * p * d * dtype.itemsize)


def _gram_path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    norms = "norms in PyTorch" if backend == "reference" else "norms in kernels"
    return f"{norms}; torch.bmm forms the difference of both matrices, tile by tile, and the gradient from it."


GRAM = Case(
    "gram_loss",
    FAMILY,
    "Gram",
    ("B", "P", "D"),
    shape_note="P patches of B images; a frozen target",
    inputs=_gram_inputs,
    ours=SF.gram_loss,
    eager=eager_gram_loss,
    exact=exact_gram_loss,
    peers={"lightly": "lightly has no such loss."},
    cost=_gram_cost,
    pairs=lambda shape: shape[0] * shape[1] ** 2,
    stored="similarities",
    path=_gram_path,
    sizes=(
        Size((16, 196, 1024), "small", targets(), recipe_too=True),
        Size((16, 2304, 1024), "recipe", targets()),
        Size((2, 12, 16), "quick"),
    ),
)

CASES = (BYOL, GRAM)
