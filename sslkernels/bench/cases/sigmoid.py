# SPDX-License-Identifier: Apache-2.0
"""SigLIP classifies every pair of an image and a text. Its dense path stores all logits, and their labels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import sslkernels.functional as SF
from sslkernels.bench.cases.case import (
    BF16,
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

LOGIT_SCALE, LOGIT_BIAS = 10.0, -10.0  # where SigLIP's training begins
_MIB = 1 << 20

FAMILY = Family(
    "sigmoid",
    "Sigmoid",
    "One forward and backward of SigLIP's loss, `sslkernels bench run sigmoid`.",
)


def _inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    image, text = (draw.ready(F.normalize(rows, dim=1)) for rows in draw.views(*shape))
    numbers = {
        name: torch.tensor(value, device=image.device, requires_grad=True)
        for name, value in (("logit_scale", LOGIT_SCALE), ("logit_bias", LOGIT_BIAS))
    }
    return {"image": image, "text": text, **numbers}


def eager_siglip_loss(image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Take the log-sigmoid of labels times logits, as open_clip writes it."""
    logits = logit_scale.to(image.dtype) * image @ text.T + logit_bias.to(image.dtype)
    labels = 2 * torch.eye(len(image), device=image.device, dtype=image.dtype) - 1
    return -F.logsigmoid(labels * logits).sum() / len(image)


def exact_siglip_loss(x: Inputs, block: int) -> Tensor:
    """Take the softplus of every pair's logit, and that of the other sign where rows belong together."""

    def of_rows(rows: Tensor, own: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        logits, matched = (scale * rows) @ text.T + bias, (scale * rows * own).sum(1) + bias
        return F.softplus(logits).sum() - F.softplus(matched).sum() + F.softplus(-matched).sum()

    text, scale, bias = x["text"], x["logit_scale"], x["logit_bias"]
    size = max(1, block // len(text))
    sides = zip(x["image"].split(size), text.split(size), strict=True)
    parts = [checkpoint(of_rows, rows, own, text, scale, bias, use_reentrant=False) for rows, own in sides]
    return sum(parts, text.new_zeros(())) / len(text)


def _cost(shape: Shape, dtype: torch.dtype) -> Cost:
    """One product forward, and one for each side backward."""
    n, d = shape
    return Cost(2 * n * n * d, 4 * n * n * d, 4 * n * d * dtype.itemsize)


def _path(backend: str, shape: Shape, dtype: torch.dtype, device: torch.device) -> str:
    if backend == "reference":
        return "dense: the whole matrix of logits is stored, in float32 at least."
    if backend == "triton":
        return "tiles: one kernel turns products into sums and weights, and cuBLAS multiplies these, chunk by chunk."
    return (
        "one pass: a tile of logits gives its sum and both its gradients; threads walk the diagonals of a Latin square "
        f"of blocks. {tiles(dtype)}"
    )


def _with_fixed_numbers(inputs: Inputs) -> Inputs:
    return {name: x.detach() if name.startswith("logit") else x for name, x in inputs.items()}


def _siglip(inputs: Inputs) -> Step:
    from siglip_kernel import fused_siglip_loss

    image, text, scale, bias = (inputs[name] for name in ("image", "text", "logit_scale", "logit_bias"))
    return lambda: fused_siglip_loss(image, text, scale.log(), bias)


SIGLIP = Case(
    "siglip_loss",
    FAMILY,
    "SigLIP",
    ("N", "D"),
    inputs=_inputs,
    ours=SF.siglip_loss,
    eager=eager_siglip_loss,
    exact=exact_siglip_loss,
    cost=_cost,
    pairs=lambda shape: shape[0] ** 2,
    path=_path,
    peers={
        "lightly": "lightly has no SigLIP loss.",
        "memeff": "memeff has CLIP's loss alone.",
        "siglip": Peer(
            _siglip,
            note="siglip has no gradient for scale and bias; it is timed without.",
            inputs=_with_fixed_numbers,
        ),
    },
    sizes=(
        Size((256, 512), "small", targets(Target(F32, "compile", 1.0), Target(BF16, "compile", 1.0))),
        Size((4096, 768), "small", targets(Target(F32, "compile", 1.0), Target(BF16, "compile", 1.0))),
        Size((16384, 512), "recipe", (*targets(), Target(F32, "bytes", 192 * _MIB), Target(BF16, "bytes", 192 * _MIB))),
        *(Size((n, 512), "crossover", targets()) for n in (64, 128, 512, 1024)),
        Size((64, 32), "quick"),
    ),
)

CASES = (SIGLIP,)
