# SPDX-License-Identifier: Apache-2.0
"""Pass running sums, terms of the gradient and parts of sums between the kernels of the similarity family."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.launch import contiguous
from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Pairs, Sums
from sslkernels.ops.triton_launch import cdiv, floats, row_tile


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
    attended: Tensor | None = None  # (parts, N, D), the sums of e^(logit - peak)*y; softmax(logits)*y if rows are lse
    products: Tensor | None = None  # (N, M) of all pairs, where they were formed at once


class Terms(NamedTuple):
    """The terms of G, each as log-sum-exps and their gradients, or None where no gradient came."""

    rows: tuple[Tensor, Tensor] | None
    columns: tuple[Tensor, Tensor] | None
    largest: Tensor | None  # the largest gradients, of which kernels compute the `unit_of` float16 weights


class Layout(NamedTuple):
    """Say which pairs are left out, as kernels read it."""

    exclude: Tensor | None
    start: int
    step: int
    excluded: int  # exclusions per row


def layout(pairs: Pairs) -> Layout:
    if pairs.views:
        return Layout(None, pairs.start, pairs.x.shape[0] // pairs.views, pairs.views)
    count = 0 if pairs.exclude is None else pairs.exclude.shape[1]
    return Layout(pairs.exclude if count else None, 0, 0, count)


def lse_of(sums: Running, into: Tensor | None = None) -> Tensor:
    """Join running sums to lse (N,), in ``into`` or a new tensor."""
    if sums.totals is None:
        return sums.peaks
    parts, n = sums.peaks.shape
    lse = floats(sums.peaks, n) if into is None else into
    kernels.merge_kernel[(cdiv(n, 128),)](*sums, lse, n, parts, BLOCK=128, num_warps=4)
    return lse


def attended_of(swept: Swept, lse: Tensor) -> Tensor:
    """softmax(logits)*y (N, D)."""
    assert swept.attended is not None
    parts, n, d = swept.attended.shape
    if swept.rows.totals is None:
        return swept.attended[0]
    attended, size = floats(lse, n, d), row_tile(d)
    kernels.attended_kernel[(cdiv(n, size["BLOCK_N"]),)](
        swept.attended, swept.rows.peaks, lse, attended, n, d, parts, **size
    )
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
    rows, columns = _term(sums.rows, sums.rows_grad), _term(sums.cols, sums.cols_grad)
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
