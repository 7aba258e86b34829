# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the tokens family, which move rows by index, rank keys, cut patches out of images, and measure."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

TOKENS = family("tokens", kernels=("cpu", "cuda", "triton"))


@TOKENS.op
def gather(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """Gather (M B, P + K, C) from x (B, P + N, C) by index (M, B, K)."""
    sets, batch, kept = index.shape
    return x.new_empty((sets * batch, prefix + kept, x.shape[2]), dtype=dtype)


@TOKENS.op
def collect(
    x: Tensor,
    index: Tensor,
    length: int,
    fill: Tensor | None,
    prefix: int,
    strict: bool,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    """Scatter x (M B, P + K, C) to (B, P + length, C) by index (M, B, K)."""
    return x.new_empty((index.shape[1], prefix + length, x.shape[2]), dtype=dtype)


@TOKENS.op
def sums(x: Tensor, index: Tensor, length: int, backend: str) -> Tensor:
    """Sum x (M B, K, C) to (length, C) by index (M, B, K)."""
    return x.new_empty((length, x.shape[2]), dtype=wide(x.dtype))


@TOKENS.op
def ranks(keys: Tensor, keep: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rank keys (B, L): return ids_keep (B, keep), ids_restore (B, L) and mask (B, L)."""
    batch, length = keys.shape
    return (
        keys.new_empty((batch, keep), dtype=torch.int64),
        keys.new_empty((batch, length), dtype=torch.int64),
        keys.new_empty((batch, length), dtype=torch.float32),
    )


@TOKENS.op
def patches(images: Tensor, index: Tensor, patch: int, backend: str) -> Tensor:
    """Cut patches (B, K, channels p p) out of images (B, channels, H, W) by index (B, K)."""
    batch, kept = index.shape
    return images.new_empty((batch, kept, images.shape[1] * patch * patch))


class Masked(NamedTuple):
    """Weigh the mean errors over the features of tokens. Those of weight 0 are not read."""

    pred: Tensor  # (B, L, C)
    target: Tensor  # (B, L, C)
    weights: Tensor  # (B, L), in the dtype of sums; each counts as w / max(sum of all, 1)
    # Tells how tokens of target are standardised: "none", "mae" ((t - mean) / sqrt(unbiased variance + 1e-6)) or
    # "layer" (biased variance, 1e-5).
    norm: str
    beta: float  # the error where smooth L1 turns linear; 0 for squares


@TOKENS.op
def masked_error(masked: Masked, grad: Tensor | None, need: bool, backend: str) -> tuple[Tensor, Tensor]:
    """Return the weighted mean (), and its gradient times ``grad`` (1 if None) in pred's dtype, empty unless needed."""
    pred = masked.pred
    return pred.new_empty((), dtype=wide(pred.dtype)), pred.new_empty(tuple(pred.shape) if need else (0,))
