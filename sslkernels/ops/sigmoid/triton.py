# SPDX-License-Identifier: Apache-2.0
"""The sigmoid family on Triton: walk through the pairs in chunks, whose weights two products turn into gradients.

Plans, chunks and products are those of the similarity family. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.launch import alike, rows_of
from sslkernels.ops.sigmoid import triton_kernels as kernels
from sslkernels.ops.sigmoid.schema import Needs, Pairs
from sslkernels.ops.similarity import triton_plan as plans
from sslkernels.ops.similarity.triton_parts import aligned, room
from sslkernels.ops.similarity.triton_plan import Plan, Tile, chunk, programs_of, tile
from sslkernels.ops.similarity.triton_tiles import accumulate, multiply
from sslkernels.ops.triton_launch import capability, cdiv, empty, floats

# Products and weights of a tile are in registers at once, which so many warps share.
WARPS = 8
# The rows and columns of a tile of products that are loaded. The numbers of a larger one spill.
LOADED_SIDE, LOADED_WARPS = 64, 4
Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def forward(pairs: Pairs) -> Tensor:
    way = _way(pairs)
    sums = floats(way.x, way.x.shape[0]).zero_()
    for part in way.chunks(4 * way.tile.side if not way.products else 4 * way.tile.side**2):
        rows, columns = part
        some = floats(way.x, cdiv(columns.stop - columns.start, way.tile.side), rows.stop - rows.start)
        way.launch(part, row_sums=some)
        sums[rows] += some.sum(0)
    return sums


def backward(pairs: Pairs, weights: Tensor, needs: Needs) -> Gradients:
    weights = weights.contiguous()
    unit = None
    if pairs.x.dtype == torch.float16 and len(weights):  # small weights would be lost in float16
        finite = torch.where(weights.isfinite(), weights, 0)
        unit = finite.abs().amax().clamp_min(2.0**-100)
    return _gradients(pairs, 1.0, weights, unit, needs)[1]


def loss(pairs: Pairs, share: float, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    value, gradients = _gradients(pairs, share, None, None, needs)
    return value, *gradients


class _Way(NamedTuple):
    """Hold the rows of both sides as tiles load them, or as cuBLAS multiplies them where it forms ``products``."""

    x: Tensor
    y: Tensor
    pairs: Pairs
    tile: Tile
    products: bool

    def sides(self, bytes_per_tile: int) -> tuple[int, int]:
        """The rows and columns of chunks that take so many bytes for each tile."""
        if self.products:
            bytes_per_tile = max(bytes_per_tile, 4 * self.tile.side**2)
        n, m = self.x.shape[0], self.y.shape[0]
        return chunk(n, m, self.x.shape[1], bytes_per_tile, self.tile.side, self.x.device)

    def chunks(self, bytes_per_tile: int) -> Iterator[tuple[slice, slice]]:
        n, m = self.x.shape[0], self.y.shape[0]
        if n and m:
            height, width = self.sides(bytes_per_tile)
            for i in range(0, n, height):
                for j in range(0, m, width):
                    yield slice(i, min(i + height, n)), slice(j, min(j + width, m))

    def launch(self, part: tuple[slice, slice], slopes: bool = False, **given: Any) -> None:
        """Launch the tiles of a chunk; ``given`` are the tensors of `kernels.tile_kernel` by name."""
        rows, columns = part
        x, y = self.x[rows], self.y[columns]
        shape = x.shape[0], y.shape[0]
        d, strides = x.shape[1], (x.stride(0), y.stride(0))
        left, right = x, y
        if self.products:
            products = given.get("weights_out")
            if products is None or products.dtype != torch.float32:
                products = floats(x, *(cdiv(size, self.tile.side) * self.tile.side for size in shape))
            multiply(x, y, products[: shape[0], : shape[1]])
            left, right, d, strides = products, None, 0, (products.stride(0), 0)
        weights, out = given.get("row_weights"), given.get("weights_out")
        kernels.tile_kernel[(programs_of(shape, self.tile.side, False),)](
            left, right, self.pairs.scale, self.pairs.bias, None if weights is None else weights[rows],
            given.get("unit"), out, given.get("row_sums"), given.get("tile_sums"), *shape, d, *strides,
            0 if out is None else out.stride(0), self.x.shape[0], self.y.shape[0], rows.start, columns.start,
            PAIRED=self.pairs.paired, SLOPES=slopes, ROOM=room(self.x), **tile(self.tile),
        )  # fmt: skip


def _way(pairs: Pairs) -> _Way:
    x = rows_of(pairs.x)
    y = x if pairs.y is None else alike(x, pairs.y)
    plan = plans.plan(x.shape[0], y.shape[0], x.shape[1], x.dtype, capability(x.device))
    if not plan.products:
        x, y = aligned(x), aligned(y)
    return _Way(x, y, pairs, tile_of(plan), plan.products)


def tile_of(plan: Plan) -> Tile:
    if plan.products:
        return replace(plan.weights, side=min(LOADED_SIDE, plan.weights.side), warps=LOADED_WARPS)
    return replace(plan.weights, warps=WARPS)


def _gradients(
    pairs: Pairs, share: float, weights: Tensor | None, unit: Tensor | None, needs: Needs
) -> tuple[Tensor, Gradients]:
    """Return share times the sum of all values, and the gradient of share times the weighted sums."""
    way = _way(pairs)
    side, itself = way.tile.side, pairs.y is None
    moves_x, moves_y = needs.need_x, needs.need_x if itself else needs.need_y
    (n, d), m = pairs.x.shape, way.y.shape[0]
    moved_x, moved_y = (
        floats(way.x, *((rows, d) if need else (0,))).zero_() for rows, need in ((n, moves_x), (m, moves_y))
    )
    tile_sums = floats(way.x, 3, cdiv(n, side) * cdiv(m, side))
    each = way.x.element_size() * side**2
    out = None
    if (moves_x or moves_y) and n and m:
        out = empty(way.x, way.sides(each), way.x.dtype)
    for rows, columns in way.chunks(each):
        given = {"row_weights": weights, "unit": unit, "weights_out": out, "tile_sums": tile_sums}
        way.launch((rows, columns), any(needs), **given)
        if out is not None:
            known = out[: rows.stop - rows.start, : columns.stop - columns.start]
            if moves_x:
                accumulate(moved_x[rows], known, rows_of(pairs.x if itself else pairs.y)[columns], first=False)
            if moves_y:
                accumulate(moved_y[columns], known.T, rows_of(pairs.x)[rows], first=False)
    factor = pairs.scale * (share / room(way.x))
    if unit is not None:
        factor = factor * unit
    if itself and moves_x:
        moved_x += moved_y
    value, along, total = (tile_sums if any(needs) else tile_sums[:1].expand(3, -1)).sum(1, dtype=torch.float64)
    return (share * value).float(), (
        moved_x.mul_(factor),
        floats(way.x, 0) if itself else moved_y.mul_(factor),
        (share * along).float() if needs.need_scale else floats(way.x, 0),
        (share * total).float() if needs.need_bias else floats(way.x, 0),
    )
