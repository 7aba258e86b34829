# SPDX-License-Identifier: Apache-2.0
"""The chunked way through the pairs: a matrix product writes a chunk of logits, and an epilogue reads it once."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import Running, Swept, Terms, layout, lse_of, room
from sslkernels.ops.similarity.triton_plan import Plan, chunk, epilogue_tile, grid, keys_of, wide_chunk
from sslkernels.ops.triton_launch import cdiv, floats


def sums(way: Plan, pairs: Pairs, columns: bool, attend: bool, keep: bool) -> Swept:
    """Running sums of rows and, if asked, of columns; lse and softmax(S)*Y if ``attend``.

    With ``keep`` the products are returned where all fit the workspace together with their weights.
    """
    if not attend:
        return _sums(way, pairs, columns, keep)
    rows, attended = _attend(way, pairs)
    return Swept(Running(rows, None), _sums(way, pairs, True, False).columns if columns else None, attended[None])


def _sums(way: Plan, pairs: Pairs, columns: bool, keep: bool) -> Swept:
    x, keys, listed = pairs.x, keys_of(pairs), layout(pairs)
    n, m = x.shape[0], keys.shape[0]
    keep = keep and chunk(n, m, _pair_bytes(x)) == (n, m)
    height, width = chunk(n, m, 4)
    products = floats(x, height * width)
    row_programs, column_programs = grid(height, width, way.forward, x.device, columns)
    row_peaks, row_totals = floats(x, 2, column_programs, n)
    column_peaks, column_totals = floats(x, 2, row_programs, m) if columns else (None, None)
    for i in range(0, n, height):
        for j in range(0, m, width):
            part = _products(x[i : i + height], keys[j : j + width], products)
            kernels.chunk_forward_kernel[(row_programs * column_programs,)](
                part, pairs.scale, listed.exclude, row_peaks[:, i:], row_totals[:, i:],
                None if column_peaks is None else column_peaks[:, j:],
                None if column_totals is None else column_totals[:, j:],
                *part.shape, n, m, n, i, j, *listed[1:], row_programs, column_programs, int(j > 0), int(i > 0),
                COLUMNS=columns, **epilogue_tile(way.forward),
            )  # fmt: skip
    by_columns = None if column_peaks is None else Running(column_peaks, column_totals)
    return Swept(Running(row_peaks, row_totals), by_columns, None, products if keep else None)


def _attend(way: Plan, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Row sums and softmax(S)*Y. Chunks are as wide as the keys: their rows' sums are complete, and turn the logits in
    memory into softmax at once.
    """
    x, keys, listed = pairs.x, keys_of(pairs), layout(pairs)
    (n, d), m = x.shape, keys.shape[0]
    height = wide_chunk(n, m, _pair_bytes(x))
    products, attended, rows = floats(x, height * m), floats(x, n, d), floats(x, n)
    weights = _weights_beside(products, x)
    row_programs, column_programs = grid(height, m, way.forward, x.device, False)
    for i in range(0, n, height):
        part = _products(x[i : i + height], keys, products)
        row_peaks, row_totals = floats(x, 2, column_programs, part.shape[0])
        kernels.chunk_forward_kernel[(row_programs * column_programs,)](
            part, pairs.scale, listed.exclude, row_peaks, row_totals, None, None,
            *part.shape, part.shape[0], m, n, i, 0, *listed[1:], row_programs, column_programs, 0, 0,
            COLUMNS=False, **epilogue_tile(way.forward),
        )  # fmt: skip
        lse = lse_of(Running(row_peaks, row_totals), rows[i : i + height])
        part_weights = _weights(way, pairs, part, weights, (lse, None), None, None, i, 0)
        _accumulate(attended[i : i + height], part_weights, keys, first=True)
    if room(x) != 1:
        attended.mul_(1 / room(x))
    return rows, attended


def moved(
    way: Plan, pairs: Pairs, terms: Terms, need_x: bool, need_y: bool, products: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """O for x and for y, as one part (1, N, D) each, over the unit of the terms. ``products`` are those of `sums`."""
    x, keys = pairs.x, keys_of(pairs)
    by_rows, by_columns, largest = terms
    (n, d), m = x.shape, keys.shape[0]
    height, width = chunk(n, m, _pair_bytes(x))
    formed = products is not None
    products = floats(x, height * width) if products is None else products
    weights = _weights_beside(products, x)
    moved_x = floats(x, 1, n, d) if need_x else None
    moved_y = floats(x, 1, m, d) if need_y else None
    for i in range(0, n, height):
        rows = slice(i, i + height)
        for j in range(0, m, width):
            columns = slice(j, j + width)
            part = products.view(n, m) if formed else _products(x[rows], keys[columns], products)
            own = None if by_rows is None else (by_rows[0][rows], by_rows[1][rows])
            other = None if by_columns is None else (by_columns[0][columns], by_columns[1][columns])
            part_weights = _weights(way, pairs, part, weights, own, other, largest, i, j)
            if moved_x is not None:
                _accumulate(moved_x[0, rows], part_weights, keys[columns], first=j == 0)
            if moved_y is not None:
                _accumulate(moved_y[0, columns], part_weights.T, x[rows], first=i == 0)
    return moved_x, moved_y


def _pair_bytes(x: Tensor) -> int:
    """Count the bytes of a pair: its product in float32, and beside it its weight if x has another dtype."""
    return 4 if x.dtype == torch.float32 else 4 + x.element_size()


def _weights_beside(products: Tensor, x: Tensor) -> Tensor:
    """Room for the weights of a chunk: their products' own, if the dtypes agree."""
    return products if x.dtype == torch.float32 else x.new_empty(products.numel())


def _products(x: Tensor, y: Tensor, workspace: Tensor) -> Tensor:
    """x @ y.T in float32, at the front of the workspace."""
    out = workspace[: x.shape[0] * y.shape[0]].view(x.shape[0], y.shape[0])
    if x.dtype == torch.float32:
        return torch.mm(x, y.T, out=out)
    if x.is_cuda:
        return torch.mm(x, y.T, out_dtype=torch.float32, out=out)
    return torch.mm(x.float(), y.T.float(), out=out)


def _accumulate(total: Tensor, weights: Tensor, rows: Tensor, first: bool) -> None:
    """total = weights @ rows if ``first``, else total += weights @ rows, in float32."""
    beta = 0 if first else 1
    if rows.dtype == torch.float32:
        torch.addmm(total, weights, rows, beta=beta, out=total)
    elif rows.is_cuda:
        torch.addmm(total, weights, rows, out_dtype=torch.float32, beta=beta, out=total)
    else:
        torch.addmm(total, weights.float(), rows.float(), beta=beta, out=total)


def _weights(
    way: Plan,
    pairs: Pairs,
    products: Tensor,
    workspace: Tensor,
    own: tuple[Tensor, Tensor | None] | None,
    other: tuple[Tensor, Tensor] | None,
    largest: Tensor | None,
    first_row: int,
    first_column: int,
) -> Tensor:
    """G of a chunk of products, in the workspace's dtype."""
    (n, m), listed = products.shape, layout(pairs)
    out = workspace[: n * m].view(n, m)
    blocks = way.backward
    kernels.chunk_backward_kernel[(cdiv(n, blocks.n) * cdiv(m, blocks.m),)](
        products, out, pairs.scale, listed.exclude, *(own or (None, None)), *(other or (None, None)), largest,
        n, m, pairs.x.shape[0], first_row, first_column, *listed[1:], 0 if largest is None else len(largest),
        EACH=pairs.y is None and not pairs.views, ROOM=room(pairs.x), **epilogue_tile(blocks),
    )  # fmt: skip
    return out
