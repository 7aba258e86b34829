# SPDX-License-Identifier: Apache-2.0
"""The fused way through the pairs: programs keep the logits of their tiles in registers."""

from __future__ import annotations

from torch import Tensor

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import Terms, headroom, merge, summed
from sslkernels.ops.similarity.triton_plan import Blocks, Plan, exclusions, grid, keys_of, tile
from sslkernels.ops.triton_launch import cdiv, floats, row_tile


def forward(way: Plan, pairs: Pairs, columns: bool, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, keys = pairs.x, keys_of(pairs)
    (n, d), m = x.shape, keys.shape[0]
    blocks = way.attend if attend else way.forward
    row_programs, column_programs = grid(n, m, blocks, x.device, columns)
    row_peaks, row_totals = floats(x, 2, column_programs, n)
    column_peaks, column_totals = floats(x, 2, row_programs, m) if columns else (None, None)
    moved = floats(x, column_programs, n, d) if attend else None
    kernels.forward_kernel[(row_programs * column_programs,)](
        x, keys, pairs.scale, pairs.exclude, row_peaks, row_totals, column_peaks, column_totals, moved,
        n, m, d, x.stride(0), keys.stride(0), row_programs, column_programs,
        EXCLUDED=exclusions(pairs), COLUMNS=columns, ATTEND=attend, HEADROOM=headroom(x),
        **tile(blocks, x),
    )  # fmt: skip
    rows = merge(row_peaks, row_totals)
    column_sums = merge(column_peaks, column_totals) if columns else floats(x, 0)
    if not attend:
        return rows, column_sums, floats(x, 0)
    attended = floats(x, n, d)
    size = row_tile(d)
    kernels.attended_kernel[(cdiv(n, size["BLOCK_N"]),)](
        moved, row_peaks, rows, attended, n, d, column_programs, **size
    )
    return rows, column_sums, attended


def backward(way: Plan, pairs: Pairs, terms: Terms, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor]:
    x, keys, itself = pairs.x, keys_of(pairs), pairs.y is None
    by_rows, by_columns, unit = terms
    moved_x = moved_y = floats(x, 0)
    if need_x:
        parts = _sweep(way.backward, pairs, x, keys, by_rows, by_columns, own_lists=True, other_lists=itself)
        moved_x = summed(parts, unit)
    if need_y:
        parts = _sweep(way.backward, pairs, keys, x, by_columns, by_rows, own_lists=False, other_lists=True)
        moved_y = summed(parts, unit)
    return moved_x, moved_y


def _sweep(
    blocks: Blocks,
    pairs: Pairs,
    x: Tensor,
    y: Tensor,
    own: tuple[Tensor, Tensor] | None,
    other: tuple[Tensor, Tensor] | None,
    own_lists: bool,
    other_lists: bool,
) -> Tensor:
    """O = G*Y for the rows of x, in parts (parts, N, D) that programs leave. x and y are the sides of the pairs, in
    either order.
    """
    n, m, d = x.shape[0], y.shape[0], x.shape[1]
    row_programs, parts = grid(n, m, blocks, x.device, False)
    moved = floats(x, parts, n, d)
    kernels.backward_kernel[(row_programs * parts,)](
        x, y, pairs.scale, pairs.exclude, *(own or (None, None)), *(other or (None, None)), moved,
        n, m, d, x.stride(0), y.stride(0), parts,
        EXCLUDED=exclusions(pairs), OWN_LISTS=own_lists, OTHER_LISTS=other_lists, **tile(blocks, x),
    )  # fmt: skip
    return moved
