# SPDX-License-Identifier: Apache-2.0
"""Launch the kernels that treat anchors one by one, before and after the sweeps through the pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.launch import rows_of
from sslkernels.ops.similarity import triton_anchor_kernels as kernels
from sslkernels.ops.similarity.schema import Moved, Positives
from sslkernels.ops.similarity.triton_parts import Running
from sslkernels.ops.triton_launch import Area, cdiv, empty, floats, processors

# The tile of rows in `weigh`. Rows stand side by side in what programs left of their sums, so it has many.
WEIGH = Area(numbers=2048, warps=4)
# The tile of one side in `finish`, with rows, partners and what moved them. With twice as many numbers it spills.
FINISH = Area(numbers=512, warps=4)
# Left alone, ptxas aims at fewer registers in `finish`, and spills.
REGISTERS = 96  # per thread


class Weighed(NamedTuple):
    """Hold what log-sum-exps became. Each program left a part of the sums, and its largest weight for float16 rows."""

    lse: Tensor  # (directions, N); empty if sums came as log-sum-exps
    weights: Tensor | None  # (directions, N), if a gradient is wanted
    pull: Tensor | None  # (N,)
    losses: Tensor  # (programs,)
    pulled: Tensor | None  # (programs,)
    largest: Tensor | None  # (programs,)
    arrived: Tensor | None  # (), the programs of `finish` that have left their part of the scale's gradient


class Parts(NamedTuple):
    """Hold what moved the rows of one side, in parts that are still to be added. It may be absent."""

    moved: Tensor | None  # (parts, N, D), contiguous but for the first stride
    by: Tensor | None = None  # (N,) multiplies it

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of rows from part to part, and of parts."""
        return (0, 0) if self.moved is None else (self.moved.stride(0) // max(1, self.moved.shape[2]), len(self.moved))


def weigh(
    positives: Positives, rows: Running, columns: Running | None, share: float, gradients: bool, room: bool, count: bool
) -> Weighed:
    """Weigh the anchors. ``room`` asks for the largest weight, and ``count`` for `finish` to be counted."""
    x, y = rows_of(positives.x), rows_of(positives.y)
    n, d = x.shape
    (block_n, block_d), warps = WEIGH.sides(d, widest=128), WEIGH.warps
    programs = max(1, min(cdiv(n, block_n), 4 * processors(x.device)))
    directions = 1 if columns is None else 2
    lse = floats(x, 0 if rows.totals is None else directions, n)
    weights, pull, pulled = (floats(x, *s) if gradients else None for s in ((directions, n), (n,), (programs,)))
    losses, largest = floats(x, programs), floats(x, programs) if gradients and room else None
    arrived = empty(x, (), torch.int32) if count else None
    other = (None, None) if columns is None else columns
    kernels.weigh_kernel[(programs,)](
        x, y, positives.scale, *rows, *other, None if rows.totals is None else lse, weights, pull, losses, pulled,
        largest, arrived, n, d, x.stride(0), y.stride(0), rows.state, 0 if columns is None else columns.state,
        rows.parts, 0 if columns is None else columns.parts, share, BLOCK_N=block_n, BLOCK_D=block_d, PARTS=16,
        num_warps=warps,
    )  # fmt: skip
    return Weighed(lse, weights, pull, losses, pulled, largest, arrived)


def finish(
    moved: Moved, x_parts: Parts, y_parts: Parts, weighed: Weighed | None, pull: Tensor | None, value: Tensor | None,
    need_x: bool, need_y: bool, need_scale: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Finish both sides, from parts in place of ``moved``'s sums.

    Where ``weighed`` is given, that of its positives is taken off the scale's gradient, and ``value`` gets its loss.
    """
    x, y = rows_of(moved.x), None if moved.y is None else rows_of(moved.y)
    (n, d), m = x.shape, 0 if y is None else y.shape[0]
    dx, dy = floats(x, *((n, d) if need_x else (0,))), floats(x, *((m, d) if need_y else (0,)))
    size = finish_tile(d)
    programs = max(1, cdiv(max(n, m), size["BLOCK_N"]))
    along, scale_grad = (floats(x, programs), floats(x)) if need_scale else (None, None)
    arrived = weighed.arrived if need_scale and weighed is not None else None
    (x_part_rows, x_count), (y_part_rows, y_count) = x_parts.sizes, y_parts.sizes
    losses, pulled, largest = (None, None, None) if weighed is None else weighed[3:6]
    kernels.finish_kernel[(programs,)](
        x, *x_parts, moved.x_norms, dx if need_x else None,
        y, y_parts.moved, moved.y_norms, dy if need_y else None, pull, moved.scale, largest, along, scale_grad, arrived,
        losses, pulled, value, n, m, d, x.stride(0), 0 if y is None else y.stride(0), x_part_rows, y_part_rows, x_count,
        y_count, 0 if largest is None else len(largest), 0 if losses is None else len(losses), **size,
        maxnreg=REGISTERS,
    )  # fmt: skip
    if along is not None and arrived is None:
        scale_grad, _ = summed(along)
    return dx, dy, floats(x, 0) if scale_grad is None else scale_grad


def finish_tile(d: int) -> dict[str, int]:
    rows, features = FINISH.sides(d)
    return {"BLOCK_N": rows, "BLOCK_D": features, "num_warps": FINISH.warps}


def summed(first: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The sums of one or two arrays of as many parts."""
    sums = floats(first), None if second is None else floats(first)
    kernels.sum_kernel[(1,)](first, sums[0], second, sums[1], len(first), num_warps=4)
    return sums
