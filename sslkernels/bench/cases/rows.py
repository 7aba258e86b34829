# SPDX-License-Identifier: Apache-2.0
"""Losses that compare a row with its partner and with no other."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.bench.cases.case import Case, Cost, Draw, Family, Inputs, Peer, Shape, Size, Step, in_both, targets

FAMILY = Family("rows", "Rows", "A loss of each row and its partner alone, `sslkernels bench run rows`.")


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

CASES = (BYOL,)
