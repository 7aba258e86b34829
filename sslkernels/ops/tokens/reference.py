# SPDX-License-Identifier: Apache-2.0
"""Run the tokens family in plain PyTorch: the specification of every other backend, and a backend of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.tokens.bounds import check_bounds
from sslkernels.ops.tokens.schema import Masked

EPS = {"mae": 1e-6, "layer": 1e-5}


def gather(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Gather tokens: x (B, P + N, C), index (M, B, K) -> (M B, P + K, C); ``fill`` (C,) stands for indices from N on.

    ``pos`` is (P + K, C) if ``by_place``, else (N, C) by index; it is added in fp32 (fp64).
    """
    (sets, batch, kept), length = index.shape, x.shape[1] - prefix
    if x.device.type == "cpu":
        check_bounds(index, length if fill is None else None)
    where = index.reshape(sets * batch, kept).long()
    inside = (where >= 0) & (where < length)
    safe = where.clamp(0, max(length - 1, 0))
    sources = x.to(wide(x.dtype)).repeat(sets, 1, 1)
    if length:
        out = sources[:, prefix:].gather(1, safe[..., None].expand(-1, -1, x.shape[2]))
    else:
        out = sources.new_zeros((sets * batch, kept, x.shape[2]))
    beyond = out.new_tensor(torch.nan) if fill is None else torch.where(where[..., None] >= 0, fill.to(out), torch.nan)
    out = torch.where(inside[..., None], out, beyond)
    if pos is not None and not by_place and length:
        out = out + torch.where(inside[..., None], pos[safe], 0)
    out = torch.cat([sources[:, :prefix], out], 1)
    if pos is not None and by_place:
        out = out + pos
    return out.to(dtype)


def collect(
    x: Tensor, index: Tensor, length: int, fill: Tensor | None, prefix: int, strict: bool, dtype: torch.dtype
) -> Tensor:
    """Scatter tokens: x (M B, P + K, C), index (M, B, K) -> (B, P + length, C).

    Rows that share an index add up in fp32 (fp64). An index outside is left out, unless ``strict`` forbids it. A place
    that receives no row gets ``fill`` (C,), or zero.
    """
    sets, batch, kept = index.shape
    if strict and x.device.type == "cpu":
        check_bounds(index, length)
    rows = x.to(wide(x.dtype)).view(sets, batch, prefix + kept, x.shape[2])
    where = index.transpose(0, 1).reshape(batch, sets * kept).long()
    inside = (where >= 0) & (where < length)
    # Tokens outside the range go to a spare last row, which we cut off below.
    target = torch.where(inside, where, length)
    out = rows.new_zeros((batch, length + 1, x.shape[2]))
    moved = rows[:, :, prefix:].transpose(0, 1).reshape(batch, sets * kept, x.shape[2])
    out.scatter_add_(1, target[..., None].expand_as(moved), moved)
    if fill is not None:
        arrived = torch.zeros((batch, length + 1), dtype=torch.bool, device=x.device).scatter(1, target, True)
        out = torch.where(arrived[..., None], out, fill.to(out))
    out = out[:, :length]
    if strict:
        out = torch.where(inside.all(1)[:, None, None], out, torch.nan)
    return torch.cat([rows[:, :, :prefix].sum(0), out], 1).to(dtype)


def sums(x: Tensor, index: Tensor, length: int) -> Tensor:
    """Sum rows of x (M B, K, C) by index (M, B, K) in fp64 to (length, C) in fp32 (fp64); leave out rows outside."""
    rows = x.reshape(-1, x.shape[2]).double()
    where = index.reshape(-1).long()
    target = torch.where((where >= 0) & (where < length), where, length)
    return rows.new_zeros((length + 1, x.shape[2])).index_add_(0, target, rows)[:length].to(wide(x.dtype))


def ranks(keys: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rank keys (B, L) and keep the smallest.

    ids_keep (B, keep) holds the places of the smallest keys, smallest first. ids_restore (B, L) holds the rank of each
    key, with equal keys in order. mask (B, L) is 1 where the rank is ``keep`` or more.
    """
    order = keys.argsort(dim=1, stable=True)
    places = torch.arange(keys.shape[1], device=keys.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return order[:, :keep].contiguous(), rank, (rank >= keep).float()


def patches(images: Tensor, index: Tensor, patch: int) -> Tensor:
    """Cut patches (B, K, channels p p) out of images (B, channels, H, W).

    Patches are counted row by row; pixels are in the order of a convolution's weight.
    """
    batch, channels, height, width = images.shape
    down, across = height // patch, width // patch
    if images.device.type == "cpu":
        check_bounds(index, down * across)
    every = images.view(batch, channels, down, patch, across, patch).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    inside = (index >= 0) & (index < down * across)
    safe = index.long().clamp(0, down * across - 1)
    found = every.gather(1, safe[..., None].expand(-1, -1, every.shape[2]))
    return torch.where(inside[..., None], found, torch.nan)


def masked_error(masked: Masked, grad: Tensor | None, need: bool) -> tuple[Tensor, Tensor]:
    """Return ``sum(w / max(sum w, 1) * error)`` over tokens, and its gradient times ``grad``, zero where w is 0."""
    pred, target, weights, norm, beta = masked
    dtype, weighed = wide(pred.dtype), weights != 0
    mean, inverse = _moments(target.to(dtype), norm)
    difference = pred.to(dtype) - (target.to(dtype) - mean) * inverse
    if beta == 0:
        error, slope = difference.square(), 2 * difference
    else:
        size = difference.abs()
        error = torch.where(size < beta, difference.square() * (0.5 / beta), size - 0.5 * beta)
        slope = (difference / beta).clamp(-1, 1)
    errors = torch.where(weighed, (error / error.shape[2]).sum(2), 0)
    # The weights are divided first: the sum of large errors may overflow where their mean does not.
    share = weights / weights.sum().clamp_min(1)
    value = (errors * share).sum()
    if not need:
        return value, pred.new_empty(0)
    scale = torch.where(weighed, (share if grad is None else grad * share) / pred.shape[2], 0)[:, :, None]
    return value, torch.where(scale != 0, slope * scale, 0).to(pred.dtype)


def _moments(target: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """Return the mean and the inverse deviation of each token of target (B, L, C), (B, L, 1) each."""
    if norm == "none":
        return torch.zeros_like(target[:, :, :1]), torch.ones_like(target[:, :, :1])
    # We compute in fp64, because squares of large numbers overflow fp32.
    variance, mean = torch.var_mean(target.double(), 2, correction=1 if norm == "mae" else 0, keepdim=True)
    return mean.to(target.dtype), (variance + EPS[norm]).rsqrt().to(target.dtype)
