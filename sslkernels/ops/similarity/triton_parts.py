# SPDX-License-Identifier: Apache-2.0
"""Pass running sums, terms of the gradient and parts of sums between the kernels of the similarity family."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sslkernels.ops.launch import contiguous
from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs, Sums
from sslkernels.ops.triton_launch import Area, Tile, cdiv, floats, row_tile

# Bytes that a program leaves of one sum: a peak and a total.
PART = 8
# Sums that are joined at a time: parts of them, and places.
MERGE = Tile(rows=32, columns=32, warps=4)
# The tile of `attended_of`. Rows are few where the keys are many, so it is small.
ATTENDED = Area(numbers=256, warps=2)


class Running(NamedTuple):
    """Hold running sums of exponentials, of which each column of programs left one; without totals, log-sum-exps."""

    peaks: Tensor  # (parts, N), or (N,) without totals
    totals: Tensor | None  # (parts, N)

    @property
    def parts(self) -> int:
        return 1 if self.totals is None else self.peaks.shape[0]

    @property
    def state(self) -> int:
        """The distance between parts."""
        return 0 if self.totals is None else self.peaks.stride(0)

    def of(self, first: int, end: int) -> Running:
        """Those of rows ``first`` to ``end``."""
        return Running(self.peaks[..., first:end], None if self.totals is None else self.totals[..., first:end])


class Swept(NamedTuple):
    """Hold what a sweep over the pairs left."""

    rows: Running
    columns: Running | None
    products: Tensor | None = None  # of all pairs at least, where they were formed at once


class Terms(NamedTuple):
    """The terms of G, each as log-sum-exps and their gradients, or None where no gradient came.

    Gradients of rows may be absent: then each is the `room` of weights that are at most 1.
    """

    rows: tuple[Tensor, Tensor | None] | None
    columns: tuple[Tensor, Tensor] | None
    largest: Tensor | None  # the largest gradients, of which kernels compute the `unit_of` float16 weights


class Layout(NamedTuple):
    """Say which pairs are left out, as kernels read it: by a table, or by diagonals.

    Row i leaves out column start + i + k*step for each of so many views, where places from ``end`` on wrap around.
    """

    exclude: Tensor | None
    start: int
    step: int
    listed: int  # columns of the table
    views: int
    end: int


# Kernels are written out for each of so many diagonals; more are listed in a table.
MOST_VIEWS = 8
_NOWHERE = (1 << 31) - 1


def layout(pairs: Pairs) -> Layout:
    n, views, first, step = pairs.x.shape[0], pairs.views, pairs.first, pairs.step
    if views and first == 0 and views * step == n and views <= MOST_VIEWS:
        return Layout(None, pairs.start, step, 0, views, n)
    if views and first + n <= step and views <= MOST_VIEWS:
        return Layout(None, pairs.start + first, step, 0, views, _NOWHERE)
    exclude = pairs.exclude
    if views:
        rows, others = torch.arange(n, device=pairs.x.device)[:, None], torch.arange(views, device=pairs.x.device)
        exclude = pairs.start + (first + rows).remainder(step) + others * step
    listed = 0 if exclude is None else exclude.shape[1]
    return Layout(exclude if listed else None, 0, 0, listed, 0, n)


def is_plain(pairs: Pairs) -> bool:
    """True if logits are products alone, and if what is left out are views of the same things, or nothing."""
    left_out = layout(pairs)
    return (
        left_out.exclude is None
        and (not left_out.views or left_out.end == pairs.x.shape[0])
        and pairs.bias is None
        and pairs.row_labels is None
    )


def aligned(x: Tensor) -> Tensor:
    """Return rows that tiles load in wide words: they begin at multiples of 16 numbers, and are as long.

    Others are copied, with zeros behind them. Loaded number by number they would fill the registers and spill.
    """
    missing = -x.shape[1] % 16
    if missing:
        return pad(x, (0, missing))
    return x if x.stride(0) % 16 == 0 and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def lse_of(sums: Running) -> Tensor:
    """Join running sums to lse (N,)."""
    if sums.totals is None:
        return sums.peaks
    lse = floats(sums.peaks, sums.peaks.shape[1])
    join(sums.peaks, sums.totals, lse)
    return lse


def join(peaks: Tensor, totals: Tensor, lse: Tensor) -> None:
    """Join running sums (parts, N) to log-sum-exps (N,). They are peaks of running sums too, with totals of 1."""
    parts, n = peaks.shape
    kernels.merge_kernel[(cdiv(n, MERGE.columns),)](
        peaks, totals, lse, n, parts, BLOCK=MERGE.columns, PARTS=MERGE.rows, num_warps=MERGE.warps
    )


def attended_of(sums: Running, moved: Tensor, lse: Tensor) -> Tensor:
    """softmax(logits)*y (N, D), from the parts of a fused sweep."""
    parts, n, d = moved.shape
    attended, (rows, features) = floats(lse, n, d), ATTENDED.sides(d, widest=64)
    kernels.attended_kernel[(cdiv(n, rows) * cdiv(d, features),)](
        moved, sums.peaks, lse, attended, n, d, parts, BLOCK_N=rows, BLOCK_D=features, PARTS=8,
        num_warps=ATTENDED.warps,
    )  # fmt: skip
    return attended


def total(moved: Tensor, largest: Tensor | None) -> Tensor:
    """The sum over parts of O (parts, N, D), times the unit of its weights."""
    parts, n, d = moved.shape
    if parts == 1 and largest is None:
        return moved[0]
    out, size = floats(moved, n, d), row_tile(d)
    count = 0 if largest is None else len(largest)
    kernels.total_kernel[(cdiv(n, size["BLOCK_N"]),)](moved, largest, out, n, d, parts, count, **size)
    return out


def room(x: Tensor) -> float:
    """The factor of weights that are at most 1, before they are rounded to the dtype of x."""
    return kernels.HEADROOM.value if x.dtype == torch.float16 else 1.0


def terms_of(sums: Sums, dtype: torch.dtype) -> Terms:
    """The terms of G that have a gradient."""
    rows = columns = _term(sums.rows, sums.rows_grad)
    if sums.cols is not sums.rows or sums.cols_grad is not sums.rows_grad:
        columns = _term(sums.cols, sums.cols_grad)
    largest = None
    if dtype == torch.float16 and (rows or columns):
        (n, by_rows), (m, by_columns) = (
            (0, None) if term is None else (len(term[1]), term[1]) for term in (rows, columns)
        )
        programs = min(64, cdiv(max(n, m), 1024))
        some = by_columns if by_rows is None else by_rows
        assert some is not None
        largest = floats(some, programs)
        kernels.largest_kernel[(programs,)](by_rows, by_columns, largest, n, m, BLOCK=1024, num_warps=4)
    return Terms(rows, columns, largest)


def _term(lse: Tensor | None, grad: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if lse is None or grad is None else (lse.contiguous(), contiguous(grad))
