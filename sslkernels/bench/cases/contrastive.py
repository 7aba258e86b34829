# SPDX-License-Identifier: Apache-2.0
"""Time the losses made of log-sum-exps beside NT-Xent: decoupled, by labels, and of a linear classifier."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.bench.cases.case import F32, Case, Cost, Draw, Inputs, Peer, Shape, Size, Step, Target, targets
from sslkernels.bench.cases.similarity import (
    FAMILY,
    TEMPERATURE,
    Logits,
    logits_path,
    logits_stored,
    nt_xent_inputs,
    nt_xent_logits,
)

CLASSES = 100


def _of_views_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    (n, d), pairs = shape, 4 * shape[0] ** 2
    return Cost(pairs * d, 2 * pairs * d, 4 * n * d * dtype.itemsize)


# DCL


def eager_dcl(z0: Tensor, z1: Tensor) -> Tensor:
    n = z0.shape[0]
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z / TEMPERATURE) @ z.T
    positive = torch.cat([logits.diagonal(n), logits.diagonal(-n)])
    rows = torch.arange(2 * n, device=z.device)
    logits = logits.index_put((rows, rows), logits.new_tensor(-torch.inf))
    logits = logits.index_put((rows, rows.roll(n)), logits.new_tensor(-torch.inf))
    return (logits.logsumexp(1) - positive).mean()


def exact_dcl(x: Inputs, block: int) -> Tensor:
    z = F.normalize(torch.cat([x["z0"], x["z1"]]), dim=1)
    own = torch.arange(len(z), device=z.device)

    def of_rows(rows: Tensor, z: Tensor, own: Tensor, partner: Tensor) -> Tensor:
        logits = rows @ z.T / TEMPERATURE
        positive = logits.gather(1, partner[:, None])[:, 0]
        left = logits.scatter(1, torch.stack((own, partner), 1), -torch.inf)
        return (left.logsumexp(1) - positive).sum()

    return _blocks(of_rows, z, block, own, own.roll(len(own) // 2))


def _blocks(of_rows: Any, z: Tensor, block: int, *by_row: Tensor) -> Tensor:
    size, total = max(1, block // len(z)), z.new_zeros(())
    for start in range(0, len(z), size):
        part = slice(start, start + size)
        total = total + checkpoint(of_rows, z[part], z, *(of[part] for of in by_row), use_reentrant=False)
    return total / len(z)


def _lightly_dcl(inputs: Inputs) -> Step:
    from lightly.loss import DCLLoss

    loss = DCLLoss(temperature=TEMPERATURE)
    return lambda: loss(inputs["z0"], inputs["z1"])


DCL = Case(
    "dcl",
    FAMILY,
    "DCL",
    ("N", "D"),
    shape_note="N per view",
    wording="N={N} per view, D={D}, {dtype}",
    inputs=nt_xent_inputs,
    ours=partial(SF.dcl, temperature=TEMPERATURE),
    eager=eager_dcl,
    exact=exact_dcl,
    peers={"lightly": Peer(_lightly_dcl)},
    cost=_of_views_cost,
    pairs=logits_stored(nt_xent_logits),
    path=logits_path(
        "x with itself, triangular: log-sum-exps, and the gradient from the logits once more.", nt_xent_logits
    ),
    sizes=(
        Size((64, 128), "small", targets()),
        Size((256, 128), "small", targets()),
        Size((4096, 128), "small", targets(Target(F32, "eager", 2.0)), recipe_too=True),
        Size((64, 32), "quick"),
    ),
)

# SupCon


def _sup_con_logits(shape: Shape) -> Logits:
    n, d = shape
    return Logits(n, n, d, itself=True)


def _sup_con_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    n, d = shape
    classes = max(2, min(CLASSES, n // 4))
    labels = torch.arange(n, device=draw.device) % classes
    means = F.normalize(draw.normal(classes, d), dim=1)
    z = means[labels] + 0.5 * F.normalize(draw.normal(n, d), dim=1)
    return {"z": draw.ready(z), "labels": labels}


def eager_sup_con(z: Tensor, labels: Tensor) -> Tensor:
    """The authors' code for one view, with the mean over anchors that have a positive."""
    z = F.normalize(z, dim=1)
    logits = (z / TEMPERATURE) @ z.T
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    others = 1 - torch.eye(len(z), dtype=logits.dtype, device=z.device)
    positives = (labels[:, None] == labels).to(logits.dtype) * others
    log_share = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    return -((positives * log_share).sum(1) / positives.sum(1)).mean()


def exact_sup_con(x: Inputs, block: int) -> Tensor:
    z, labels = F.normalize(x["z"], dim=1), x["labels"]
    own = torch.arange(len(z), device=z.device)

    def of_rows(rows: Tensor, z: Tensor, own: Tensor, mine: Tensor) -> Tensor:
        logits = rows @ z.T / TEMPERATURE
        positives = (mine[:, None] == labels).scatter(1, own[:, None], False)
        lse = logits.scatter(1, own[:, None], -torch.inf).logsumexp(1)
        return (lse - torch.where(positives, logits, 0.0).sum(1) / positives.sum(1)).sum()

    return _blocks(of_rows, z, block, own, labels)


def _sup_con_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, d = shape
    return Cost(n * n * d, 2 * n * n * d, 2 * n * d * dtype.itemsize)


def _pml_sup_con(inputs: Inputs) -> Step:
    from pytorch_metric_learning.losses import SupConLoss

    loss = SupConLoss(temperature=TEMPERATURE)
    return lambda: loss(inputs["z"], inputs["labels"])


SUP_CON = Case(
    "sup_con",
    FAMILY,
    "SupCon",
    ("N", "D"),
    shape_note=f"rows of at most {CLASSES} classes",
    inputs=_sup_con_inputs,
    ours=partial(SF.sup_con, temperature=TEMPERATURE),
    eager=eager_sup_con,
    exact=exact_sup_con,
    peers={"pml": Peer(_pml_sup_con), "lightly": "lightly has no SupCon."},
    cost=_sup_con_cost,
    pairs=logits_stored(_sup_con_logits),
    path=logits_path(
        "x with itself, triangular; positives through the sum of each class's rows; products in float32.",
        _sup_con_logits,
    ),
    sizes=(
        Size((64, 128), "small", targets()),
        Size((256, 128), "small", targets()),
        Size((4096, 128), "small", targets(Target(F32, "eager", 3.0)), recipe_too=True),
        Size((64, 32), "quick"),
    ),
)

# A linear classifier


def _classifier_logits(shape: Shape) -> Logits:
    n, k, d = shape
    return Logits(n, k, d)


def _classifier_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    n, k, d = shape
    x, weight = draw.normal(n, d), draw.normal(k, d) * d**-0.5
    target = torch.arange(n, device=draw.device).mul(7) % k
    return {"x": draw.ready(x), "weight": draw.ready(weight), "target": target}


def eager_linear_cross_entropy(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(x @ weight.T, target)


def exact_linear_cross_entropy(inputs: Inputs, block: int) -> Tensor:
    x, weight, target = inputs["x"], inputs["weight"], inputs["target"]

    def of_rows(rows: Tensor, weight: Tensor, mine: Tensor) -> Tensor:
        return F.cross_entropy(rows @ weight.T, mine, reduction="sum")

    size, total = max(1, block // len(weight)), x.new_zeros(())
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        total = total + checkpoint(of_rows, x[part], weight, target[part], use_reentrant=False)
    return total / len(x)


def _classifier_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, k, d = shape
    return Cost(2 * n * k * d, 4 * n * k * d, 2 * (n + k) * d * dtype.itemsize)


LINEAR_CROSS_ENTROPY = Case(
    "linear_cross_entropy",
    FAMILY,
    "linear cross-entropy",
    ("N", "K", "D"),
    shape_note="K classes",
    inputs=_classifier_inputs,
    ours=SF.linear_cross_entropy,
    eager=eager_linear_cross_entropy,
    exact=exact_linear_cross_entropy,
    cost=_classifier_cost,
    pairs=logits_stored(_classifier_logits),
    path=logits_path(
        "rows against classes: log-sum-exps, then both gradients from the logits once more.", _classifier_logits
    ),
    sizes=(
        Size((2048, 504, 256), "small", targets()),
        Size((256, 65536, 128), "small", targets(), recipe_too=True),
        Size((64, 48, 32), "quick"),
    ),
)

# Uniformity, as an evaluation takes it: the value alone


def _uniformity_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    return {"z": draw.ready(F.normalize(draw.normal(*shape), dim=1), grad=False)}


def _uniformity_logits(shape: Shape) -> Logits:
    n, d = shape
    return Logits(n, n, d, itself=True)


def eager_uniformity(z: Tensor) -> Tensor:
    """The authors' line. `torch.pdist` takes nothing narrower than float32, and stores each pair once."""
    return torch.pdist(z if z.dtype == torch.float64 else z.float()).pow(2).mul(-2).exp().mean().log()


def exact_uniformity(x: Inputs, block: int) -> Tensor:
    z, total, start = x["z"], torch.zeros((), dtype=torch.float64, device=x["z"].device), 0
    squares = z.square().sum(1)
    for part in z.split(max(1, block // len(z))):
        apart = (part.square().sum(1, keepdim=True) + squares - 2 * part @ z.T).clamp_min(0)
        own = torch.arange(len(part), device=z.device)
        apart[own, start + own] = torch.inf
        total += apart.mul(-2).exp().sum(dtype=torch.float64)
        start += len(part)
    return (total / (len(z) * (len(z) - 1))).log()


def _uniformity_cost(shape: Shape, dtype: torch.dtype) -> Cost:
    n, d = shape
    return Cost(n * n * d, 0, n * d * dtype.itemsize)


UNIFORMITY = Case(
    "uniformity",
    FAMILY,
    "uniformity",
    ("N", "D"),
    shape_note="the value alone",
    inputs=_uniformity_inputs,
    ours=SF.uniformity,
    eager=eager_uniformity,
    exact=exact_uniformity,
    search=True,
    peers={"lightly": "lightly has no uniformity."},
    cost=_uniformity_cost,
    pairs=lambda shape: shape[0] * (shape[0] - 1) // 2,
    stored="distances",
    path=logits_path("tiles of all pairs: log-sum-exps of their products alone.", _uniformity_logits),
    sizes=(
        Size((10000, 512), "small", targets()),
        Size((50000, 512), "recipe"),
        Size((128, 32), "quick"),
    ),
)

CASES = (DCL, SUP_CON, LINEAR_CROSS_ENTROPY, UNIFORMITY)
