# SPDX-License-Identifier: Apache-2.0
"""The attention family on Triton: allocate and launch.

Nothing here waits for the device: the scale is read from its pointer, and every size follows from shapes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from sslkernels.ops.attention import triton_kernels as kernels
from sslkernels.ops.attention.schema import Attention, Wanted
from sslkernels.ops.launch import contiguous, dot_precision, power_of_two, rows_of
from sslkernels.ops.rows.triton import dot_forward
from sslkernels.ops.similarity.triton_parts import Running, aligned, attended_of, lse_of, total
from sslkernels.ops.triton_launch import cdiv, floats, processors


class Tile(NamedTuple):
    """The rows of a block and of a step past it, the features that a program sums, and those of a step of a product."""

    rows: int
    columns: int
    widest: int
    depth: int
    warps: int
    stages: int
    programs: int  # per multiprocessor


# By the dtype of the rows. Float16 is summed as TF32 is, which takes twice the room. They were not measured on a GPU.
FORWARD = {
    torch.bfloat16: Tile(64, 64, 128, 64, 8, 2, 1),
    torch.float16: Tile(64, 64, 128, 64, 8, 2, 1),
    torch.float32: Tile(32, 32, 128, 32, 8, 2, 1),
}
BACKWARD = {
    torch.bfloat16: Tile(64, 64, 128, 64, 8, 2, 1),
    torch.float16: Tile(64, 64, 64, 32, 8, 2, 1),
    torch.float32: Tile(32, 32, 32, 32, 8, 1, 1),
}
# Registers per thread. Left alone, ptxas aims at fewer, and spills.
REGISTERS = 255


def forward(attention: Attention) -> tuple[Tensor, Tensor]:
    query, keys, values, scale, bias, exclude = _prepared(attention)
    (n, d), (m, dv), out_dv = query.shape, values.shape, attention.values.shape[1]
    if n == 0 or m == 0:
        return floats(query, n, out_dv).zero_(), floats(query, n).fill_(-torch.inf)
    tile = FORWARD[query.dtype]
    size = forward_size(tile, query.dtype, d, dv)
    slices = cdiv(dv, size["BLOCK_V"])
    parts = _parts(tile, n, m, slices, query.device)
    peaks, totals, moved = floats(query, parts, n), floats(query, parts, n), floats(query, parts, n, out_dv)
    kernels.attend_kernel[(cdiv(n, tile.rows) * parts * slices,)](
        query, keys, values, scale, bias, exclude, peaks, totals, moved, n, m, d, dv, out_dv,
        query.stride(0), keys.stride(0), values.stride(0), 0 if exclude is None else exclude.shape[1], parts, slices,
        **size,
    )  # fmt: skip
    running = Running(peaks, totals)
    lse = lse_of(running)
    return attended_of(running, moved, lse), lse


def backward(
    attention: Attention, out: Tensor, lse: Tensor, grad: Tensor, wanted: Wanted
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, keys = attention.query, attention.keys
    if query.shape[0] == 0 or keys.shape[0] == 0:
        shapes = (query.shape, keys.shape, attention.values.shape, keys.shape[:1])
        empty = (floats(query, *(shape if need else (0,))).zero_() for shape, need in zip(shapes, wanted, strict=True))
        return tuple(empty)  # type: ignore[return-value]
    # Products with bfloat16 rows need dO in bfloat16; delta is that of the rounded rows, so that slopes add up to zero.
    grad = rows_of(grad.to(torch.bfloat16) if query.dtype == torch.bfloat16 else grad)
    delta = dot_forward(grad, out, 0)
    none = floats(query, 0)
    of_query, of_keys, of_values, of_bias = none, none, none, none
    if wanted.of_query:
        of_query, _, _ = _pulled(attention, grad, lse, delta, True, (True, False, False))
    if wanted.of_keys or wanted.of_values or wanted.of_bias:
        of_keys, of_values, of_bias = _pulled(attention, grad, lse, delta, False, wanted[1:])
    return of_query, of_keys, of_values, of_bias


def _pulled(
    attention: Attention, grad: Tensor, lse: Tensor, delta: Tensor, own: bool, outputs: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Pull the queries (``own``) or the keys; return those of the kernel's three outputs that are asked for."""
    query, keys, values, scale, bias, exclude = _prepared(attention)
    grad, (out_d, out_dv) = aligned(grad), (attention.query.shape[1], attention.values.shape[1])
    x, x_by, y, y_by = (query, grad, keys, values) if own else (keys, values, query, grad)
    (n, d), m, dv = x.shape, y.shape[0], grad.shape[1]
    tile = BACKWARD[query.dtype]
    moved, by, of_bias = outputs
    size = backward_size(tile, query.dtype, d, dv)
    slices = max(cdiv(d, size["BLOCK_D"]) if moved else 1, cdiv(dv, size["BLOCK_V"]) if by else 1)
    parts = _parts(tile, n, m, slices, query.device)
    found = [
        floats(query, parts, n, *width) if need else None
        for width, need in (((out_d,), moved), ((out_dv,), by), ((1,), of_bias))
    ]
    kernels.pull_kernel[(cdiv(n, tile.rows) * parts * slices,)](
        x, y, x_by, y_by, scale, bias, exclude, lse, delta, *found, n, m, d, dv, out_d, out_dv,
        x.stride(0), y.stride(0), x_by.stride(0), y_by.stride(0), 0 if exclude is None else exclude.shape[1], parts,
        slices, OWN=own, **size,
    )  # fmt: skip
    joined = [floats(query, 0) if each is None else total(each, None) for each in found]
    return joined[0], joined[1], joined[2].view(-1)


def forward_size(tile: Tile, dtype: torch.dtype, d: int, dv: int) -> dict[str, Any]:
    return {**_products(tile, dtype), "BLOCK_D": _slice(d, tile.depth), "BLOCK_V": _slice(dv, tile.widest)}


def backward_size(tile: Tile, dtype: torch.dtype, d: int, dv: int) -> dict[str, Any]:
    slices = {"BLOCK_D": _slice(d, tile.widest), "BLOCK_V": _slice(dv, tile.widest)}
    return {**_products(tile, dtype), **slices, "BLOCK_K": tile.depth}


def _products(tile: Tile, dtype: torch.dtype) -> dict[str, Any]:
    # Float16 weights and gradients would leave the range: they and what they multiply are rounded to TF32, which has
    # float16's precision and float32's range.
    precision = "tf32" if dtype == torch.float16 else dot_precision(dtype)
    return {
        "WIDE": tl.bfloat16 if dtype == torch.bfloat16 else tl.float32,
        "PRECISION": precision,
        "BLOCK_N": tile.rows,
        "BLOCK_M": tile.columns,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "maxnreg": REGISTERS,
    }


def _slice(features: int, most: int) -> int:
    return min(most, max(16, power_of_two(features)))


def _parts(tile: Tile, n: int, m: int, slices: int, device: torch.device) -> int:
    """The other side is split only to fill the device."""
    programs = processors(device) * tile.programs // (cdiv(n, tile.rows) * slices)
    return max(1, min(cdiv(m, tile.columns), programs))


def _prepared(attention: Attention) -> Attention:
    """The tensors as kernels read them."""
    query, keys, values, scale, bias, exclude = attention
    exclude = exclude if exclude is not None and exclude.shape[1] else None
    query, keys, values = (aligned(rows_of(x)) for x in (query, keys, values))
    return Attention(query, keys, values, scale, contiguous(bias), contiguous(exclude))
