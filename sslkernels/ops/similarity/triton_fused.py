# SPDX-License-Identifier: Apache-2.0
"""The fused way through the pairs: programs keep the logits of their blocks in registers."""

from __future__ import annotations

from torch import Tensor

from sslkernels.ops.similarity import triton_fused_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.similarity.triton_parts import Running, Terms, aligned, layout, room
from sslkernels.ops.similarity.triton_plan import Blocks, fused_grid, fused_tile
from sslkernels.ops.triton_launch import floats


def attended(blocks: Blocks, pairs: Pairs) -> tuple[Running, Tensor]:
    """Running sums of rows, and the sums of e^(logit - peak)*y in as many parts (parts, N, D)."""
    x, left_out = aligned(pairs.x), layout(pairs)
    keys = x if pairs.y is None else aligned(pairs.y)
    (n, d), m = pairs.x.shape, keys.shape[0]
    row_blocks, parts = fused_grid(n, m, blocks, x.device)
    peaks, totals = floats(x, 2, parts, n)
    moved = floats(x, parts, n, d)
    kernels.attend_kernel[(row_blocks * parts,)](
        x, keys, pairs.scale, peaks, totals, moved, n, m, x.shape[1], d, x.stride(0), keys.stride(0),
        left_out.start, left_out.step, parts, VIEWS=left_out.views, ROOM=room(x), **fused_tile(blocks, d),
    )  # fmt: skip
    return Running(peaks, totals), moved


def moved(blocks: Blocks, pairs: Pairs, terms: Terms) -> Tensor:
    """O for x, in parts (parts, N, D), over the unit of the terms."""
    x, left_out = aligned(pairs.x), layout(pairs)
    keys = x if pairs.y is None else aligned(pairs.y)
    (n, d), m = pairs.x.shape, keys.shape[0]
    row_blocks, parts = fused_grid(n, m, blocks, x.device)
    out = floats(x, parts, n, d)
    by_rows, by_columns, largest = terms
    kernels.move_kernel[(row_blocks * parts,)](
        x, keys, pairs.scale, *(by_rows or (None, None)), *(by_columns or (None, None)), largest, out,
        n, m, x.shape[1], d, x.stride(0), keys.stride(0), left_out.start, left_out.step, parts,
        0 if largest is None else len(largest), VIEWS=left_out.views, **fused_tile(blocks, d),
    )  # fmt: skip
    return out
