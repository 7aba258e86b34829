# SPDX-License-Identifier: Apache-2.0
"""Tokens are gathered, put back, and compared under masks. K of L tokens are kept; masked_mse masks them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    Shape,
    Size,
    Target,
    in_both,
    on_gpu,
    targets,
)  # fmt: skip

_DIMENSIONS = ("B", "L", "K", "C")
_WITHIN = (("K", "L"),)
_MOVED = on_gpu("floor", 0.85)
_PEERS = {"lightly": "lightly has PyTorch's gather here, which is eager's."}

FAMILY = Family(
    "tokens",
    "Tokens",
    "Tokens, `sslkernels bench run tokens`, against an expanded index and `torch.gather`, MAE's cat + gather + add,\n"
    "and its loss as written.",
    ("op", "batch, channels", "dtype"),
)


def _index(sets: int, shape: Shape, draw: Draw) -> tuple[Tensor, Tensor]:
    """Draw an order of each sample's tokens for every set. The second tensor has the first K of each."""
    (batch, length), kept = shape[:2], shape[-2]
    order = draw.uniform(sets, batch, length).argsort(dim=2)
    return order, order[:, :, :kept].contiguous().to(draw.device)


def _tokens(shape: Shape, count: int, draw: Draw) -> Tensor:
    return draw.normal(shape[0], count, shape[-1])


def _pairs(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[-1]


def _moved(rows: Callable[[int, int], int]) -> Callable[[Shape, torch.dtype], Cost]:
    """``rows`` says how many rows of a sample forward and backward read and write, given K of all sets and L."""

    def cost(shape: Shape, dtype: torch.dtype) -> Cost:
        sets = shape[2] if len(shape) == 5 else 1
        return Cost(0, 0, shape[0] * rows(sets * shape[-2], shape[1]) * shape[-1] * dtype.itemsize)

    return cost


def _told(words: str) -> Callable[[str, Shape, torch.dtype, torch.device], str]:
    """The path has the same words on every backend."""
    return lambda backend, shape, dtype, device: words


def _row(template: str) -> Callable[[Shape], tuple[str, ...]]:
    """Fill the first cells of the table. The template may name {L}, {K}, and {M} where there are several sets."""

    def row(shape: Shape) -> tuple[str, ...]:
        sizes = {"L": shape[1], "M": shape[2], "K": shape[-2]}
        return template.format(**sizes), f"{shape[0]}, {shape[-1]}"

    return row


def _exact_rows(x: Tensor, masks: Tensor) -> Tensor:
    """Gather by advanced indexing, which shares no code with torch.gather."""
    samples = torch.arange(masks.shape[1], device=masks.device)[None, :, None]
    return x[samples, masks].flatten(0, 1)


# Gather


def _gather_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    _, index = _index(1, shape, draw)
    return {"x": draw.ready(_tokens(shape, shape[1], draw)), "index": index[0]}


def eager_gather_tokens(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


GATHER = Case(
    "gather_tokens",
    FAMILY,
    "gather",
    _DIMENSIONS,
    within=_WITHIN,
    inputs=_gather_inputs,
    ours=SF.gather_tokens,
    eager=eager_gather_tokens,
    exact=lambda x, block: _exact_rows(x["x"], x["index"][None]),
    peers=_PEERS,
    cost=_moved(lambda kept, length: 3 * kept + length),
    pairs=_pairs,
    stored="tokens",
    path=_told(
        "rows moved once; the backward finds what arrives at each row, so that every row of the gradient is written "
        "once and rows that repeat are summed in the order of the index."
    ),
    row=_row("gather, {K} of {L} tokens"),
    sizes=(
        Size((64, 196, 49, 1024), "small", targets(Target(F32, "eager", 2.0))),
        Size((256, 196, 49, 1024), "recipe", targets(*_MOVED)),
        Size((2, 16, 4, 32), "quick"),
    ),
)

# Restore


def _restore_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    order, _ = _index(1, shape, draw)
    (_, length, kept, channels), device = shape, draw.device
    token, pos = (draw.normal(count, channels).to(device) for count in (1, length))
    restore = order[0].argsort(dim=1).to(device)
    visible = draw.ready(_tokens(shape, kept, draw))
    return {"visible": visible, "ids_restore": restore, "mask_token": token.requires_grad_(), "pos": pos}


def eager_restore_tokens(visible: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
    """Concatenate, gather and add, as MAE's decoder does."""
    (batch, kept, channels), length = visible.shape, ids_restore.shape[1]
    tokens = torch.cat([visible, mask_token.to(visible.dtype).expand(batch, length - kept, channels)], 1)
    return eager_gather_tokens(tokens, ids_restore) + pos


def exact_restore_tokens(x: Inputs, block: int) -> Tensor:
    visible, restore = x["visible"], x["ids_restore"]
    tokens = torch.cat([visible, x["mask_token"].to(visible).expand(len(visible), 1, -1)], 1)
    samples = torch.arange(len(visible), device=visible.device)[:, None]
    return tokens[samples, restore.clamp_max(visible.shape[1])] + x["pos"]


RESTORE = Case(
    "restore_tokens",
    FAMILY,
    "restore + position",
    _DIMENSIONS,
    within=_WITHIN,
    inputs=_restore_inputs,
    ours=SF.restore_tokens,
    eager=eager_restore_tokens,
    exact=exact_restore_tokens,
    peers=_PEERS,
    cost=_moved(lambda kept, length: 2 * (kept + length)),
    pairs=_pairs,
    stored="tokens",
    path=_told(
        "visible rows back in their places, the mask token elsewhere, the position added as they are written; the "
        "backward reads each row of the gradient once."
    ),
    row=_row("restore {K} to {L}, + position"),
    sizes=(
        Size((64, 196, 49, 512), "small", targets(Target(F32, "eager", 8.0))),
        Size((256, 196, 49, 512), "recipe", targets(*_MOVED)),
        Size((2, 16, 4, 32), "quick"),
    ),
)

# Several sets of kept tokens


def _masks_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    _, masks = _index(shape[2], shape, draw)
    return {"x": draw.ready(_tokens(shape, shape[1], draw)), "masks": masks}


def _ours_apply_masks(x: Tensor, masks: Tensor, backend: str) -> Tensor:
    return SF.apply_masks(x, list(masks), backend=backend)


def eager_apply_masks(x: Tensor, masks: Tensor) -> Tensor:
    return torch.cat([eager_gather_tokens(x, mask) for mask in masks])


APPLY_MASKS = Case(
    "apply_masks",
    FAMILY,
    "apply masks",
    ("B", "L", "M", "K", "C"),
    within=_WITHIN,
    inputs=_masks_inputs,
    ours=_ours_apply_masks,
    eager=eager_apply_masks,
    exact=lambda x, block: _exact_rows(x["x"], x["masks"]),
    peers=_PEERS,
    cost=_moved(lambda kept, length: 3 * kept + length),
    pairs=_pairs,
    stored="tokens",
    path=_told(
        "every index set in one launch, forward and backward; gradients of a row that several sets read add up."
    ),
    row=_row("apply masks, {M} sets of {K} of {L}"),
    sizes=(
        Size((32, 256, 4, 48, 1280), "small", targets()),
        Size((24, 2048, 2, 640, 1408), "recipe", targets()),
        Size((2, 16, 3, 4, 32), "quick"),
    ),
)

# Masked mean squared error


def _mse_inputs(shape: Shape, draw: Draw) -> dict[str, Any]:
    _, index = _index(1, shape, draw)
    mask = torch.zeros(shape[:2], device=draw.device).scatter_(1, index[0], 1.0)
    pred, target = (_tokens(shape, shape[1], draw) for _ in range(2))
    return {"pred": draw.ready(pred), "target": draw.ready(target, grad=False), "mask": mask}


def eager_masked_mse(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    error = (pred - (target - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
    return (error * mask).sum() / mask.sum()


def exact_masked_mse(x: Inputs, block: int) -> Tensor:
    """Take the masked rows alone, by advanced indexing."""
    rows = x["mask"] > 0
    goal, found = x["target"][rows], x["pred"][rows]
    goal = (goal - goal.mean(1, keepdim=True)) / (goal.var(1, keepdim=True) + 1e-6).sqrt()
    return F.mse_loss(found, goal)


MASKED_MSE = Case(
    "masked_mse",
    FAMILY,
    "masked MSE",
    _DIMENSIONS,
    within=_WITHIN,
    inputs=_mse_inputs,
    ours=partial(SF.masked_mse, normalize_target=True),
    eager=eager_masked_mse,
    exact=exact_masked_mse,
    peers=_PEERS,
    cost=_moved(lambda kept, length: 4 * kept + length),
    pairs=_pairs,
    stored="tokens",
    path=_told("masked rows alone are read; the target is standardised as it is read, not stored."),
    row=_row("masked MSE, normalised, {K} of {L}"),
    sizes=(
        Size((64, 196, 147, 768), "small", targets(*in_both("compile", 1.1))),
        Size((2, 16, 12, 32), "quick"),
    ),
)

CASES = (GATHER, RESTORE, APPLY_MASKS, MASKED_MSE)
