# SPDX-License-Identifier: Apache-2.0
"""The neighbours family on Triton: choose a grid, allocate, launch. Nothing here waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.launch import alike, contiguous, dot_precision, rows_of
from sslkernels.ops.neighbours import composed
from sslkernels.ops.neighbours import triton_kernels as kernels
from sslkernels.ops.neighbours.schema import Search
from sslkernels.ops.triton_launch import cdiv, empty, floats, processors, row_tile

# Neighbours that a row keeps in registers, few or many. More are found in several sweeps, each below the last of the
# sweep before. Lists of one or two spill: ptxas then aims at fewer registers.
FEW, MOST = 8, 32
PROGRAMS = 2  # per multiprocessor; columns are split among programs only to fill the device
# Triton 3.9 compiles these tiles without spills for sm_80, sm_90 and sm_100; they were not measured on a GPU. Float32
# products and keys fill the registers sooner.
TILE = {"BLOCK_N": 64, "BLOCK_M": 64, "BLOCK_D": 32, "STAGES": 3, "num_warps": 4}
TILE_OF_FLOATS = {**TILE, "BLOCK_N": 32, "BLOCK_D": 16}
TILE_OF_MANY = {**TILE, "num_warps": 8}  # long lists of 16-bit rows


def topk(search: Search, k: int, metric: str) -> tuple[Tensor, Tensor]:
    ready = composed.prepared(search, metric, "triton")
    sweeps: list[Tensor] = []
    for first in range(0, k, MOST):
        sweeps.append(_sweep(ready, min(MOST, k - first), sweeps[-1][:, :, -1].contiguous() if sweeps else None))
    values, indices = _decoded(torch.cat(sweeps, 2))
    if metric == "euclidean":
        return composed.by_distance(_distances(search, indices), indices)
    return values, indices


def _sweep(search: Search, k: int, bound: Tensor | None) -> Tensor:
    """Return the k largest keys of each row (B, N, k) that are below ``bound``, largest first."""
    x, bias, exclude = rows_of(search.x), contiguous(search.bias), contiguous(search.exclude)
    y = x if search.y is None else alike(x, search.y)
    (batch, n, d), m = x.shape, y.shape[1]
    kept = FEW if k <= FEW else MOST
    tile = tile_of(x.dtype == torch.float32, kept)
    row_blocks = cdiv(n, tile["BLOCK_N"])
    room = PROGRAMS * processors(x.device) // max(1, row_blocks * batch)
    column_programs = max(1, min(cdiv(m, tile["BLOCK_M"]), room))
    best = empty(x, (batch, n, column_programs, kept), torch.int64)
    if best.numel():
        kernels.best_kernel[(batch * row_blocks * column_programs,)](
            x, y, bias, exclude, bound, best, n, m, d, 0 if exclude is None else exclude.shape[2], row_blocks,
            column_programs, x.stride(1), y.stride(1), x.stride(0), y.stride(0), ITSELF=search.y is None,
            PRECISION=dot_precision(x.dtype), KEPT=kept, **tile,
        )  # fmt: skip
    return best.flatten(2).topk(k, 2).values


def tile_of(floats: bool, kept: int) -> dict[str, int]:
    """Choose the tile for rows of float32, or of 16 bits, whose lists hold so many keys."""
    return TILE_OF_FLOATS if floats else TILE if kept == FEW else TILE_OF_MANY


def _decoded(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores and the columns of keys; see triton_kernels.py."""
    ordered, found = keys >> 32, keys >> 32 > -(2**31)
    bits = torch.where(ordered < 0, ordered ^ (2**31 - 1), ordered).to(torch.int32)
    columns = 2**31 - 1 - (keys & (2**32 - 1))
    return bits.view(torch.float32).masked_fill(~found, -torch.inf), columns.masked_fill(~found, -1)


def _distances(search: Search, indices: Tensor) -> Tensor:
    x = rows_of(search.x)
    y = x if search.y is None else alike(x, search.y)
    (_, n, k), d, indices = indices.shape, x.shape[2], indices.contiguous()
    distances = floats(x, *indices.shape)
    if distances.numel():
        tile = row_tile(d)
        kernels.distances_kernel[(cdiv(indices.numel(), tile["BLOCK_N"]),)](
            x, y, indices, distances, n, k, d, indices.numel(), x.stride(1), y.stride(1), x.stride(0), y.stride(0),
            **tile,
        )  # fmt: skip
    return distances
