# SPDX-License-Identifier: Apache-2.0
"""The fused way through the pairs: programs keep the logits of their tiles in registers."""

from __future__ import annotations

from torch import Tensor

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import Running, Swept, Terms, layout, room
from sslkernels.ops.similarity.triton_plan import Blocks, Plan, grid, keys_of, tile
from sslkernels.ops.triton_launch import floats


def sums(way: Plan, pairs: Pairs, columns: bool, attend: bool, keep: bool) -> Swept:
    """Running sums of rows, of columns if asked, and of rows of y if ``attend``. There is nothing to keep."""
    x, keys, listed = pairs.x, keys_of(pairs), layout(pairs)
    (n, d), m = x.shape, keys.shape[0]
    blocks = way.attend if attend else way.forward
    row_programs, column_programs = grid(n, m, blocks, x.device, columns)
    row_peaks, row_totals = floats(x, 2, column_programs, n)
    column_peaks, column_totals = floats(x, 2, row_programs, m) if columns else (None, None)
    attended = floats(x, column_programs, n, d) if attend else None
    kernels.forward_kernel[(row_programs * column_programs,)](
        x, keys, pairs.scale, listed.exclude, row_peaks, row_totals, column_peaks, column_totals, attended,
        n, m, d, x.stride(0), keys.stride(0), listed.start, listed.step, row_programs, column_programs,
        EXCLUDED=listed.excluded, COLUMNS=columns, ATTEND=attend, ROOM=room(x), **tile(blocks, x),
    )  # fmt: skip
    by_columns = None if column_peaks is None else Running(column_peaks, column_totals)
    return Swept(Running(row_peaks, row_totals), by_columns, attended)


def moved(
    way: Plan, pairs: Pairs, terms: Terms, need_x: bool, need_y: bool, products: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """O for x and for y, in parts (parts, N, D), over the unit of the terms. ``products`` is not used."""
    x, keys, table = pairs.x, keys_of(pairs), pairs.y is None and not pairs.views
    by_rows, by_columns, largest = terms
    return (
        _sweep(way.backward, pairs, x, keys, by_rows, by_columns, largest, "each" if table else "rows")
        if need_x
        else None,
        _sweep(way.backward, pairs, keys, x, by_columns, by_rows, largest, "columns") if need_y else None,
    )


def _sweep(
    blocks: Blocks,
    pairs: Pairs,
    x: Tensor,
    y: Tensor,
    own: tuple[Tensor, Tensor] | None,
    other: tuple[Tensor, Tensor] | None,
    largest: Tensor | None,
    lists: str,
) -> Tensor:
    """O = G*Y for the rows of x. x and y are the sides of the pairs, in either order."""
    n, m, d = x.shape[0], y.shape[0], x.shape[1]
    listed = layout(pairs)
    row_programs, parts = grid(n, m, blocks, x.device, False)
    out = floats(x, parts, n, d)
    kernels.backward_kernel[(row_programs * parts,)](
        x, y, pairs.scale, listed.exclude, *(own or (None, None)), *(other or (None, None)), largest, out,
        n, m, d, x.stride(0), y.stride(0), listed.start, listed.step, parts, 0 if largest is None else len(largest),
        EXCLUDED=listed.excluded, LISTS=lists, **tile(blocks, x),
    )  # fmt: skip
    return out
