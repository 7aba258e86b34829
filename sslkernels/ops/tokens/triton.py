# SPDX-License-Identifier: Apache-2.0
"""The tokens family on Triton: allocate and launch. Nothing here waits for the device: sizes follow from shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.capture import launching
from sslkernels.ops.launch import contiguous, power_of_two, rows_of
from sslkernels.ops.tokens import triton_kernels as kernels
from sslkernels.ops.tokens.reference import EPS
from sslkernels.ops.tokens.schema import Masked
from sslkernels.ops.triton_launch import Area, Tile, cdiv, empty, floats, processors

# Tiles have as many columns as there are channels, up to WIDEST, and rows for the rest, up to TALLEST. Triton 3.9
# compiles them without spills for sm_80, sm_90 and sm_100, and the slow tests hold them to that. They were not measured
# on a GPU.
MOVE = Area(numbers=2048, warps=4)
SUMS = Area(numbers=4096, warps=4)
ERRORS = Area(numbers=2048, warps=4)
WIDEST = 256  # channels
TALLEST = 32  # rows
# Rows are compared with as many indices, or keys, at once as there are columns.
COLLECT = Tile(rows=16, columns=128, warps=8)
RANKS = Tile(rows=16, columns=128, warps=4)
# A program of collect keeps so many sources of each of its rows, a number for each of its threads.
HELD = 16
# Registers per thread for collect and errors. Left alone, ptxas aims at fewer, and spills.
REGISTERS = 128
# Columns are split among programs, and the rows of a sum among parts, until a multiprocessor has this many programs.
PROGRAMS = 4  # per multiprocessor


def gather(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
) -> Tensor:
    x, index = rows_of(x), _samples(index)
    (samples, kept), (batch, rows, channels) = index.shape, x.shape
    out = empty(x, (samples, prefix + kept, channels), dtype)
    if out.numel() == 0:
        return out
    block_t, block_c = _tile(MOVE, channels)
    row_blocks, column_blocks = cdiv(prefix + kept, block_t), cdiv(channels, block_c)
    with launching("tokens", x):
        kernels.gather_kernel[(samples * row_blocks * column_blocks,)](
            x, index, contiguous(fill), contiguous(pos), out, batch, rows - prefix, kept, prefix, channels,
            x.stride(0), x.stride(1), index.stride(0), row_blocks, column_blocks,
            BY_PLACE=by_place, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=MOVE.warps,
        )  # fmt: skip
    return out


def collect(
    x: Tensor, index: Tensor, length: int, fill: Tensor | None, prefix: int, strict: bool, dtype: torch.dtype
) -> Tensor:
    out = empty(x, (index.shape[1], prefix + length, x.shape[2]), dtype)
    _collect(x, index, fill, prefix, strict, out)
    return out


def sums(x: Tensor, index: Tensor, length: int) -> Tensor:
    x, index = rows_of(x), _samples(index)
    samples, kept, channels = x.shape
    if x.numel() == 0 or length == 0:
        return floats(x, length, channels).zero_()
    # Each of several rows gets about one token from every sample, which a search finds. A single row gets them all.
    if length > 1:
        tiles = cdiv(length, COLLECT.rows) * cdiv(channels, _width(channels))
        parts = max(1, min(samples, PROGRAMS * processors(x.device) // tiles))
        out = floats(x, parts, length, channels)
        _collect(x, index, None, 0, False, out)
        return out.sum(0) if parts > 1 else out[0]
    block_n, block_c = _tile(SUMS, channels)
    row_blocks, column_blocks = cdiv(samples * kept, block_n), cdiv(channels, block_c)
    parts = max(1, min(row_blocks, PROGRAMS * processors(x.device) // column_blocks))
    out = floats(x, parts, channels)
    with launching("tokens", x):
        kernels.sums_kernel[(parts * column_blocks,)](
            x, index, out, samples * kept, kept, channels, x.stride(0), x.stride(1), index.stride(0),
            parts, column_blocks, BLOCK_N=block_n, BLOCK_C=block_c, num_warps=SUMS.warps,
        )  # fmt: skip
    return out.sum(0, keepdim=True) if parts > 1 else out


def ranks(keys: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    keys = keys.contiguous()
    batch, length = keys.shape
    ids_keep = empty(keys, (batch, keep), torch.int64)
    ids_restore = empty(keys, (batch, length), torch.int64)
    mask = floats(keys, batch, length)
    block_n, block_m, warps = RANKS
    row_blocks = cdiv(length, block_n)
    if keys.numel():
        with launching("tokens", keys):
            kernels.ranks_kernel[(batch * row_blocks,)](
                keys, ids_keep, ids_restore, mask, length, keep, row_blocks,
                BLOCK_N=block_n, BLOCK_M=block_m, num_warps=warps,
            )  # fmt: skip
    return ids_keep, ids_restore, mask


def patches(images: Tensor, index: Tensor, patch: int) -> Tensor:
    images, index = images.contiguous(), _samples(index)
    (batch, kept), (_, channels, height, width) = index.shape, images.shape
    pixels = channels * patch * patch
    out = empty(images, (batch, kept, pixels), images.dtype)
    if out.numel() == 0:
        return out
    block_t, block_c = _tile(MOVE, pixels)
    row_blocks, column_blocks = cdiv(kept, block_t), cdiv(pixels, block_c)
    with launching("tokens", images):
        kernels.patches_kernel[(batch * row_blocks * column_blocks,)](
            images, index, out, kept, pixels, height, width, index.stride(0), row_blocks, column_blocks,
            PATCH=patch, BLOCK_T=block_t, BLOCK_C=block_c, num_warps=MOVE.warps,
        )  # fmt: skip
    return out


def masked_error(masked: Masked, grad: Tensor | None, need: bool) -> tuple[Tensor, Tensor]:
    pred, target, weights, norm, beta = masked
    pred, target, weights = rows_of(pred), rows_of(target), weights.contiguous()
    (_, length, channels), n = pred.shape, weights.numel()
    losses, dpred = floats(pred, n), empty(pred, tuple(pred.shape) if need else (0,), pred.dtype)
    if n:
        block_n, block_c = _tile(ERRORS, channels)
        with launching("tokens", pred):
            kernels.errors_kernel[(cdiv(n, block_n),)](
                pred, target, weights, weights.sum(), grad, losses, dpred if need else None, n, length, channels,
                pred.stride(0), pred.stride(1), target.stride(0), target.stride(1),
                1 if norm == "mae" else 0, EPS.get(norm, 0.0), beta,
                NORM=norm != "none", SQUARES=beta == 0, BLOCK_N=block_n, BLOCK_C=block_c, num_warps=ERRORS.warps,
                maxnreg=REGISTERS,
            )  # fmt: skip
    return losses.sum(), dpred


def _collect(x: Tensor, index: Tensor, fill: Tensor | None, prefix: int, strict: bool, out: Tensor) -> None:
    """Samples b, b + B, b + 2 B, ... of x arrive in sample b of ``out`` (B, P + length, C)."""
    if out.numel() == 0:
        return
    x, index = rows_of(x), _samples(index)
    (samples, kept), (batch, rows, channels) = index.shape, out.shape
    block_s, block_k, warps = COLLECT
    block_c = _width(channels)
    row_blocks = cdiv(rows, block_s)
    wanted = cdiv(PROGRAMS * processors(x.device), batch * row_blocks)
    column_programs = max(1, min(cdiv(channels, block_c), wanted))
    with launching("tokens", x):
        kernels.collect_kernel[(batch * row_blocks * column_programs,)](
            x, index, contiguous(fill), out, samples, batch, rows - prefix, kept, prefix, channels,
            x.stride(0), x.stride(1), index.stride(0), row_blocks, column_programs,
            STRICT=strict, HELD=HELD, BLOCK_S=block_s, BLOCK_K=block_k, BLOCK_C=block_c, num_warps=warps,
            maxnreg=REGISTERS,
        )  # fmt: skip


# --- what they share ------------------------------------------------------------------------------------------------


def _samples(index: Tensor) -> Tensor:
    """Indices (..., K) as one row per sample (M B, K), one set of samples after another."""
    return rows_of(index.flatten(0, -2))


def _width(channels: int) -> int:
    return min(WIDEST, max(16, power_of_two(channels)))


def _tile(area: Area, channels: int) -> tuple[int, int]:
    """Rows and channels of a tile."""
    rows, width = area.sides(channels, WIDEST)
    return min(TALLEST, rows), width
