# SPDX-License-Identifier: Apache-2.0
"""How the similarity family runs on Triton: which way through the pairs, in which blocks, and in what grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sslkernels import backends
from sslkernels.ops.launch import power_of_two
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import is_plain
from sslkernels.ops.similarity.triton_tile_kernels import GROUP
from sslkernels.ops.triton_launch import capability, cdiv, processors

# A chunk holds this much of products and weights at once. There is no way without any.
WORKSPACE = max(backends.WORKSPACE, 1 << 20)  # bytes
# The widest rows that leave registers for the fused sweeps.
WIDEST_FUSED = 128  # features
# cuBLAS runs a product of 16-bit matrices in tiles of this many rows, and of as many columns up to twice that.
PRODUCT_TILE = 128


@dataclass(frozen=True)
class Blocks:
    """The tile of a fused sweep, and how it runs."""

    n: int  # rows that a program keeps
    m: int  # rows of the other side per step
    warps: int
    stages: int  # of the pipeline
    programs: int  # per multiprocessor, as registers and shared memory allow


@dataclass(frozen=True)
class Tile:
    """A square tile of logits, and how it is computed."""

    side: int  # rows and columns
    depth: int  # features per step of the product
    warps: int
    stages: int  # of the pipeline


@dataclass(frozen=True)
class Plan:
    """The way through the pairs: the tiles of sums and of weights, and the blocks of fused sweeps where there are any.

    ``products`` says that cuBLAS multiplies, and the tiles load what it stored.
    """

    reason: str
    sums: Tile
    weights: Tile
    fused: Blocks | None
    products: bool


# Compute capability (major) -> the tiles of sums and of weights, and the blocks of fused sweeps by padded D. Triton 3.9
# compiles all of them without spills, to `wgmma` for 9 and to `tcgen05` for 10, and the slow tests hold it to that;
# Triton 3.6 spills 8 bytes in the sums of 9.
# Tiles of 8 and 9 leave room for two programs on a multiprocessor, so that one multiplies while the other
# exponentiates. They were not measured on a GPU.
TABLE: dict[int, tuple[Tile, Tile, dict[int, Blocks]]] = {
    8: (Tile(128, 32, 4, 3), Tile(128, 32, 4, 3), {64: Blocks(64, 64, 4, 3, 2), 128: Blocks(64, 64, 4, 2, 2)}),
    9: (Tile(128, 32, 4, 4), Tile(128, 64, 4, 3), {64: Blocks(64, 64, 4, 3, 3), 128: Blocks(64, 64, 4, 3, 3)}),
    10: (Tile(128, 64, 8, 3), Tile(128, 128, 8, 2), {64: Blocks(128, 64, 8, 3, 1), 128: Blocks(128, 64, 8, 3, 1)}),
}
# The tiles of products that are loaded, on every device.
LOADED = Tile(128, 0, 8, 1)


def plan(n: int, m: int, d: int, dtype: torch.dtype, compute_capability: tuple[int, int], table: bool = False) -> Plan:
    """Choose the way through N x M pairs of D features on a device of ``compute_capability``.

    ``table`` says that rows list what they leave out, in any number, or that logits have a bias or rows labels.

    >>> plan(4096, 4096, 128, torch.float16, (9, 0)).reason
    'tiles: 16-bit products whose sums leave the tile and not their logits; fused sweeps where one side needs them.'
    """
    major, minor = compute_capability
    by_cublas = None
    if dtype == torch.float32:
        by_cublas = "cuBLAS multiplies float32 faster than tiles on the CUDA cores do"
    elif major not in TABLE or (major, minor) in ((8, 6), (8, 9)):
        by_cublas = f"no tiles for compute capability {major}.{minor}; they exist for 8.0, 8.7, 9.x and 10.x"
    if by_cublas is not None:
        chunks = f"chunks of products go through a workspace of {WORKSPACE >> 20} MiB"
        return Plan(f"products: {by_cublas}; {chunks}.", LOADED, LOADED, None, True)
    sums, weights, by_width = TABLE[major]
    reason = "tiles: 16-bit products whose sums leave the tile and not their logits"
    if d > WIDEST_FUSED or table:
        return Plan(f"{reason}; weights go through a workspace of {WORKSPACE >> 20} MiB.", sums, weights, None, False)
    fused = by_width[max(64, power_of_two(d))]
    return Plan(f"{reason}; fused sweeps where one side needs them.", sums, weights, fused, False)


def plan_for(pairs: Pairs) -> Plan:
    (n, d), m = pairs.x.shape, keys_of(pairs).shape[0]
    way = plan(n, m, d, pairs.x.dtype, capability(pairs.x.device), not is_plain(pairs))
    # Without the branch that leaves out views, four warps hold more at once than their registers.
    return way if pairs.views else replace(way, weights=replace(way.weights, warps=8))


def keys_of(pairs: Pairs) -> Tensor:
    """The rows that those of x are paired with: y, or x itself."""
    return pairs.x if pairs.y is None else pairs.y


def fused_grid(n: int, m: int, blocks: Blocks, device: torch.device) -> tuple[int, int]:
    """Row blocks and column programs. Columns are split only to fill the device."""
    row_blocks, column_blocks = cdiv(n, blocks.n), cdiv(m, blocks.m)
    return row_blocks, max(1, min(column_blocks, processors(device) * blocks.programs // row_blocks))


def programs_of(shape: tuple[int, int], side: int, triangle: bool) -> int:
    """The programs of a kernel that has one for each tile; a triangle is made of squares of GROUP x GROUP tiles."""
    n, m = shape
    if not triangle:
        return cdiv(n, side) * cdiv(m, side)
    bands = cdiv(cdiv(n, side), GROUP)
    return GROUP * GROUP * bands * (bands + 1) // 2


def chunk(n: int, m: int, d: int, bytes_per_tile: int, side: int, device: torch.device) -> tuple[int, int]:
    """Rows and columns of a chunk, in whole tiles. All chunks of a side are about as long.

    A chunk spans a whole side where that fits the workspace, else it is nearly square. Its gradients are products with
    N or M rows and D columns, whose tiles should fill the multiprocessors in whole waves.
    """
    most = max(1, WORKSPACE // bytes_per_tile)  # tiles
    rows, columns = cdiv(n, side), cdiv(m, side)
    if rows * columns <= most:
        return rows * side, columns * side
    square = _filling(math.isqrt(most), d, side, device)
    if rows <= square:
        return rows * side, _even(columns, max(1, most // rows)) * side
    if columns <= square:
        return _even(rows, max(1, most // columns)) * side, columns * side
    return _even(rows, square) * side, _even(columns, square) * side


def _filling(most: int, d: int, side: int, device: torch.device) -> int:
    """The number of tiles up to ``most``, not below half of it, that leaves the fewest multiprocessors idle."""
    programs, width = processors(device), cdiv(d, 2 * PRODUCT_TILE if d > 2 * PRODUCT_TILE else PRODUCT_TILE)

    def filled(tiles: int) -> float:
        products = cdiv(tiles * side, PRODUCT_TILE) * width
        return products / (cdiv(products, programs) * programs)

    return max(range(max(1, most // 2), most + 1), key=lambda tiles: (filled(tiles), tiles))


def _even(tiles: int, most: int) -> int:
    """The length of chunks of at most ``most`` tiles, if all are about as long."""
    return cdiv(tiles, cdiv(tiles, most))


def fused_tile(blocks: Blocks, d: int) -> dict[str, Any]:
    return {
        "BLOCK_N": blocks.n,
        "BLOCK_M": blocks.m,
        "BLOCK_D": max(16, power_of_two(d)),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def tile(of: Tile) -> dict[str, Any]:
    return {
        "GROUP": GROUP,
        "BLOCK": of.side,
        "BLOCK_K": of.depth,
        "STAGES": of.stages,
        "num_warps": of.warps,
        "num_stages": of.stages,
    }
