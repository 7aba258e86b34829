# SPDX-License-Identifier: Apache-2.0
"""The way through the pairs by tiles: products whose epilogue keeps sums, and weights for the products of gradients.

Float32 products come from cuBLAS, chunk by chunk through a workspace, and the tiles load them. Of x with itself only
the chunks on and below the diagonal are formed, and of those on it only the tiles on and below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.similarity import triton_plan
from sslkernels.ops.similarity import triton_tile_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import PART, Running, Swept, Terms, aligned, join, layout, room
from sslkernels.ops.similarity.triton_plan import Plan, chunk, keys_of, programs_of, tile
from sslkernels.ops.triton_launch import cdiv, empty, floats


class Chunk(NamedTuple):
    """Hold the rows and columns of a chunk of all pairs. ``mirrored``: it lies on the diagonal of x with itself."""

    rows: slice
    columns: slice
    mirrored: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


class _Operands(NamedTuple):
    """Hold what a tile is made of: rows of both sides, or products in place of x."""

    x: Tensor
    y: Tensor | None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The number of features, and the strides."""
        d, stride = (0, 0) if self.y is None else (self.x.shape[1], self.y.stride(0))
        return d, self.x.stride(0), stride


def sums(way: Plan, pairs: Pairs, columns: bool, keep: bool) -> Swept:
    """Running sums of rows and, if asked, of columns.

    Each tile leaves a part of a sum, 8 bytes for its rows and columns. Where all parts exceed the workspace, those of a
    chunk are joined before the next one. With ``keep`` the products are returned where cuBLAS forms all in one chunk.
    """
    x, keys, left_out = pairs.x, keys_of(pairs), layout(pairs)
    n, m, side = x.shape[0], keys.shape[0], way.sums.side
    joined = 2 * PART * side * cdiv(n, side) * cdiv(m, side) > triton_plan.WORKSPACE
    height, width = _sides(way, pairs) if way.products else (n, m)
    if joined and not way.products:
        height, width = chunk(n, m, x.shape[1], 2 * PART * side, side, x.device)
    products = floats(x, height, width) if way.products else None
    triangle, sides = _is_symmetric(pairs) and not columns, _whole(way, pairs)
    across, down = (width, height) if joined else (side, side)  # columns, or rows, of a part
    by_row = floats(x, 2, cdiv(m, across), n)  # peaks and totals
    by_column = floats(x, 2, cdiv(n, down), m) if columns else None
    for of in (by_row, by_column) if joined else ():
        if of is not None:
            of[1].fill_(1.0)
    # Below the diagonal, a tile's columns are the rows of the tile above it.
    beside = by_row if triangle else by_column
    for part in _chunks(n, m, height, width, triangle):
        operands, (rows, columns_, mirrored) = _operands(sides, part, products), part
        of_rows = by_row[:, columns_.start // across :, rows]
        of_columns = None if beside is None else beside[:, rows.start // down :, columns_]
        row_sums, column_sums = of_rows, of_columns
        if joined:
            row_sums = floats(x, 2, cdiv(part.shape[1], side), part.shape[0])
            if column_sums is not None:
                column_sums = row_sums if mirrored else floats(x, 2, cdiv(part.shape[0], side), part.shape[1])
        kernels.tile_sums_kernel[(programs_of(part.shape, side, mirrored),)](
            *operands, pairs.scale, left_out.exclude, *_of_chunk(pairs, part), *row_sums,
            *((None, None) if column_sums is None else column_sums),
            *part.shape, *operands.sizes, row_sums.stride(1), 0 if column_sums is None else column_sums.stride(1),
            left_out.end, rows.start, columns_.start, *left_out[1:4],
            VIEWS=left_out.views, ALIKE=pairs.alike, TRIANGLE=mirrored, APART=True, **tile(way.sums),
        )  # fmt: skip
        if joined:
            join(row_sums[0], row_sums[1], of_rows[0, 0])
            if column_sums is not None and of_columns is not None and not mirrored:
                join(column_sums[0], column_sums[1], of_columns[0, 0])
    kept = products if keep and height >= n and width >= m else None
    return Swept(Running(*by_row), None if by_column is None else Running(*by_column), kept)


def moved(
    way: Plan,
    pairs: Pairs,
    terms: Terms,
    need_x: bool,
    need_y: bool,
    kept: Tensor | None,
    of_bias: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """O for x and y, as one part (1, N, D) each, over the unit of the terms. ``kept`` are the products of `sums`.

    The sums over rows of the weights are added to ``of_bias`` (M,), which begins as zeros.
    """
    x, keys = pairs.x, keys_of(pairs)
    (n, d), m = x.shape, keys.shape[0]
    triangle = _is_symmetric(pairs) and terms.rows is terms.columns
    both_ways = pairs.y is None and terms.columns is not None and not triangle
    if both_ways:
        # Rows list what they leave out, and G = A + A^T, where A has the terms of the rows alone.
        terms = terms._replace(columns=None)
    moved_x = floats(x, 1, n, d) if need_x else None
    if both_ways and moved_x is not None:
        moved_x.zero_()
    moved_y = floats(x, 1, m, d) if need_y else None
    for (rows, columns, mirrored), known in weighed(way, pairs, terms, kept, triangle):
        if of_bias is not None:
            of_bias[columns] += known.sum(0, dtype=torch.float32)
        if moved_x is not None:
            accumulate(moved_x[0, rows], known, keys[columns], first=columns.start == 0 and not both_ways)
            if both_ways or (triangle and not mirrored):
                accumulate(moved_x[0, columns], known.T, x[rows], first=False)
        if moved_y is not None:
            accumulate(moved_y[0, columns], known.T, x[rows], first=rows.start == 0)
    return moved_x, moved_y


def weighed(
    way: Plan, pairs: Pairs, terms: Terms, kept: Tensor | None = None, triangle: bool = False
) -> Iterator[tuple[Chunk, Tensor]]:
    """Yield G of one chunk after another, over the unit of the terms, in memory that the next one takes.

    ``triangle`` leaves out the chunks above the diagonal of x with itself.
    """
    x = pairs.x
    height, width = _sides(way, pairs)
    products = floats(x, height, width) if way.products and kept is None else kept
    weights = products
    if weights is None or weights.dtype != x.dtype:  # else weights take the place of their products
        weights = empty(x, (height, width), x.dtype)
    sides = _whole(way, pairs)
    for part in _chunks(x.shape[0], keys_of(pairs).shape[0], height, width, triangle):
        operands = _Operands(kept, None) if kept is not None else _operands(sides, part, products)
        _weigh(way, pairs, part, operands, terms, weights)
        yield part, weights[: part.shape[0], : part.shape[1]]


def attended(way: Plan, pairs: Pairs, lse: Tensor, kept: Tensor | None) -> Tensor:
    """softmax(S)*Y, (N, D)."""
    out, _ = moved(way, pairs, Terms((lse, None), None, None), True, False, kept)
    assert out is not None
    return out[0] if room(pairs.x) == 1 else out[0].mul_(1 / room(pairs.x))


def _is_symmetric(pairs: Pairs) -> bool:
    """True if S is symmetric, what its rows leave out included."""
    return pairs.y is None and layout(pairs).exclude is None


def _sides(way: Plan, pairs: Pairs) -> tuple[int, int]:
    """Rows and columns of a chunk: of weights, and of products beside them."""
    x, size = pairs.x, pairs.x.element_size()
    bytes_per_pair = size + 4 if way.products and size < 4 else size
    side = way.sums.side
    return chunk(x.shape[0], keys_of(pairs).shape[0], x.shape[1], bytes_per_pair * side**2, side, x.device)


def _chunks(n: int, m: int, height: int, width: int, triangle: bool) -> Iterator[Chunk]:
    for i in range(0, n, height):
        for j in range(0, m, width):
            if not triangle or j <= i:
                yield Chunk(slice(i, min(i + height, n)), slice(j, min(j + width, m)), triangle and i == j)


def _whole(way: Plan, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return the rows of both sides, as tiles or cuBLAS multiply them."""
    if way.products:
        return pairs.x, keys_of(pairs)
    x = aligned(pairs.x)
    return x, x if pairs.y is None else aligned(pairs.y)


def _operands(sides: tuple[Tensor, Tensor], part: Chunk, products: Tensor | None) -> _Operands:
    """Multiply the rows of a chunk, where there is room for their products."""
    x, y = sides[0][part.rows], sides[1][part.columns]
    if products is None:
        return _Operands(x, y)
    multiply(x, y, products[: x.shape[0], : y.shape[0]])
    return _Operands(products, None)


def multiply(x: Tensor, y: Tensor, out: Tensor) -> None:
    """out = x @ y.T, in float32."""
    if x.dtype == torch.float32:
        torch.mm(x, y.T, out=out)
    elif x.is_cuda:
        torch.mm(x, y.T, out_dtype=torch.float32, out=out)
    else:
        torch.mm(x.float(), y.T.float(), out=out)


def _weigh(way: Plan, pairs: Pairs, part: Chunk, operands: _Operands, terms: Terms, out: Tensor) -> None:
    """Write G of a chunk, in whole tiles, to the front of ``out``."""
    left_out, (by_rows, by_columns, largest) = layout(pairs), terms
    lse, grad = (None, None) if by_rows is None else (None if of is None else of[part.rows] for of in by_rows)
    other_lse, other_grad = (None, None) if by_columns is None else (of[part.columns] for of in by_columns)
    kernels.tile_weights_kernel[(programs_of(part.shape, way.weights.side, part.mirrored),)](
        *operands, out, pairs.scale, left_out.exclude, *_of_chunk(pairs, part), lse, grad, other_lse, other_grad,
        largest,
        *part.shape, *operands.sizes, out.stride(0), left_out.end, part.rows.start, part.columns.start,
        *left_out[1:4], 0 if largest is None else len(largest), VIEWS=left_out.views, ALIKE=pairs.alike,
        MIRROR=part.mirrored, ROOM=room(pairs.x),
        **tile(way.weights),
    )  # fmt: skip


def _of_chunk(pairs: Pairs, part: Chunk) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the bias of the chunk's columns, and the labels of its rows and columns."""
    of_columns = pairs.row_labels if pairs.col_labels is None else pairs.col_labels
    by_column = (None if of is None else of[part.columns] for of in (pairs.bias, of_columns))
    bias, column_labels = by_column
    return bias, None if pairs.row_labels is None else pairs.row_labels[part.rows], column_labels


def accumulate(total: Tensor, weights: Tensor, rows: Tensor, first: bool) -> None:
    """total = weights @ rows if ``first``, else total += weights @ rows, in float32."""
    beta = 0 if first else 1
    if rows.dtype == torch.float32:
        torch.addmm(total, weights, rows, beta=beta, out=total)
    elif rows.is_cuda:
        torch.addmm(total, weights, rows, out_dtype=torch.float32, beta=beta, out=total)
    else:
        torch.addmm(total, weights.float(), rows.float(), beta=beta, out=total)
