# SPDX-License-Identifier: Apache-2.0
"""The chunked way through the pairs: a matrix product writes a chunk of logits, and an epilogue reads it once."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import Terms, headroom, merge
from sslkernels.ops.similarity.triton_plan import Plan, chunk, epilogue_tile, exclusions, grid, keys_of, wide_chunk
from sslkernels.ops.triton_launch import cdiv, floats


def forward(way: Plan, pairs: Pairs, columns: bool, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    if not attend:
        return *_sums(way, pairs, columns), floats(pairs.x, 0)
    rows, attended = _attend(way, pairs)
    return rows, _sums(way, pairs, True)[1] if columns else floats(pairs.x, 0), attended


def _sums(way: Plan, pairs: Pairs, columns: bool) -> tuple[Tensor, Tensor]:
    x, keys, exclude = pairs.x, keys_of(pairs), pairs.exclude
    n, m = x.shape[0], keys.shape[0]
    height, width = chunk(n, m, 4)
    products = floats(x, height * width)
    row_programs, column_programs = grid(height, width, way.forward, x.device, columns)
    row_peaks, row_totals = floats(x, 2, column_programs, n)
    column_peaks, column_totals = floats(x, 2, row_programs, m) if columns else (None, None)
    for i in range(0, n, height):
        for j in range(0, m, width):
            part = _products(x[i : i + height], keys[j : j + width], products)
            kernels.chunk_forward_kernel[(row_programs * column_programs,)](
                part, pairs.scale, None if exclude is None else exclude[i:], row_peaks[:, i:], row_totals[:, i:],
                None if column_peaks is None else column_peaks[:, j:],
                None if column_totals is None else column_totals[:, j:],
                *part.shape, n, m, j, exclusions(pairs), row_programs, column_programs, int(j > 0), int(i > 0),
                COLUMNS=columns, **epilogue_tile(way.forward),
            )  # fmt: skip
    rows = merge(row_peaks, row_totals)
    return rows, merge(column_peaks, column_totals) if columns else floats(x, 0)


def _attend(way: Plan, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Row sums and softmax(S)*Y. Chunks are as wide as the keys: their rows' sums are complete, and turn the logits in
    memory into softmax at once.
    """
    x, keys, exclude = pairs.x, keys_of(pairs), pairs.exclude
    (n, d), m = x.shape, keys.shape[0]
    itemsize = 0 if x.dtype == torch.float32 else x.element_size()
    height = wide_chunk(n, m, 4 + itemsize)
    products, attended, sums = floats(x, height * m), floats(x, n, d), floats(x, n)
    weights = x.new_empty(height * m) if itemsize else products
    one = floats(x, height).fill_(headroom(x))
    row_programs, column_programs = grid(height, m, way.forward, x.device, False)
    for i in range(0, n, height):
        part = _products(x[i : i + height], keys, products)
        listed = None if exclude is None else exclude[i : i + height]
        row_peaks, row_totals = floats(x, 2, column_programs, part.shape[0])
        kernels.chunk_forward_kernel[(row_programs * column_programs,)](
            part, pairs.scale, listed, row_peaks, row_totals, None, None,
            *part.shape, part.shape[0], m, 0, exclusions(pairs), row_programs, column_programs, 0, 0,
            COLUMNS=False, **epilogue_tile(way.forward),
        )  # fmt: skip
        rows = sums[i : i + height]
        merge(row_peaks, row_totals, rows)
        part_weights = _weights(way, pairs, part, weights, (rows, one), None, i, 0, False)
        _accumulate(attended[i : i + height], part_weights, keys, first=True)
    if headroom(x) != 1:
        attended.mul_(1 / headroom(x))
    return sums, attended


def backward(way: Plan, pairs: Pairs, terms: Terms, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor]:
    x, keys, itself = pairs.x, keys_of(pairs), pairs.y is None
    by_rows, by_columns, unit = terms
    (n, d), m = x.shape, keys.shape[0]
    itemsize = 0 if x.dtype == torch.float32 else x.element_size()
    height, width = chunk(n, m, 4 + itemsize)
    products = floats(x, height * width)
    weights = x.new_empty(height * width) if itemsize else products
    moved_x, moved_y = floats(x, *((n, d) if need_x else (0,))), floats(x, *((m, d) if need_y else (0,)))
    for i in range(0, n, height):
        rows = slice(i, i + height)
        for j in range(0, m, width):
            columns = slice(j, j + width)
            part = _products(x[rows], keys[columns], products)
            own = None if by_rows is None else (by_rows[0][rows], by_rows[1][rows])
            other = None if by_columns is None else (by_columns[0][columns], by_columns[1][columns])
            part_weights = _weights(way, pairs, part, weights, own, other, i, j, itself)
            if need_x:
                _accumulate(moved_x[rows], part_weights, keys[columns], first=j == 0)
            if need_y:
                _accumulate(moved_y[columns], part_weights.T, x[rows], first=i == 0)
    if unit is not None:
        moved_x.mul_(unit)
        moved_y.mul_(unit)
    return moved_x, moved_y


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
    own: tuple[Tensor, Tensor] | None,
    other: tuple[Tensor, Tensor] | None,
    first_row: int,
    first_column: int,
    itself: bool,
) -> Tensor:
    """G of a chunk of products, in the workspace's dtype."""
    n, m = products.shape
    out = workspace[: n * m].view(n, m)
    blocks = way.backward
    kernels.chunk_backward_kernel[(cdiv(n, blocks.n) * cdiv(m, blocks.m),)](
        products, out, pairs.scale, pairs.exclude, *(own or (None, None)), *(other or (None, None)),
        n, m, first_row, first_column, exclusions(pairs), SELF=itself, **epilogue_tile(blocks),
    )  # fmt: skip
    return out
