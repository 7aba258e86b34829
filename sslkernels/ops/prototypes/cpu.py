# SPDX-License-Identifier: Apache-2.0
"""Run the prototypes family on tables of products, some rows at a time, and on the compiled C++ kernels.

A product of matrices writes those of some rows with all prototypes. A kernel turns them into gradients, in place,
and torch.mm multiplies these with rows and prototypes. So each product is formed once, and a table is as large as the
workspace allows. A product in 16 bits rounds what it writes, which would be felt in every softmax. So our own kernel
multiplies rows of bfloat16, where instructions for that add up in float32, and gradients are rounded to bfloat16, once;
else rows of 16 bits are multiplied as float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels import _C, backends
from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.launch import CODES, contiguous, pointer, rows_of
from sslkernels.ops.prototypes.schema import Prototypes

_ROWS = ("student", "weight", "teacher", "teacher_weight")
_NONE, _WIDE, _ROUNDED = 0, 1, 2  # gradients of the kernel


def rows_together(prototypes: int, dtype: torch.dtype) -> int:
    """Count the rows whose products are a quarter of the workspace, and at least one."""
    return max(1, backends.WORKSPACE // 4 // (prototypes * dtype.itemsize))


def products(rows: Tensor, weight: Tensor) -> Tensor:
    rows, weight = _multiplied(rows), _multiplied(weight)
    return _multiply(rows, weight, rows.new_empty(len(rows), len(weight), dtype=wide(rows.dtype)))


def _multiplied(x: Tensor) -> Tensor:
    """Return rows in the dtype in which they are multiplied."""
    if x.dtype == torch.bfloat16 and _C.isa() in ("avx512bf16", "amx"):
        return rows_of(x)
    return widened(x)


def _multiply(rows: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    if rows.dtype != torch.bfloat16:
        return torch.mm(rows, weight.T, out=out)
    rows = rows_of(rows)
    _C.prototypes_multiply(
        rows.data_ptr(), rows.stride(0), weight.data_ptr(), weight.stride(0), rows.shape[1], out.data_ptr(),
        tuple(out.shape), torch.get_num_threads(),
    )  # fmt: skip
    return out


def _beyond(columns: int, rounded: bool) -> int:
    """Count the zeros that have to follow rows of so many gradients before they are multiplied.

    With bfloat16, torch reads past the end of a row up to a multiple of 32 numbers, and meets them with zeros. So the
    NaN of the next row, or of memory that nobody wrote, would be there.
    """
    return -columns % 32 if rounded else 0


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prototypes = prototypes._replace(**{name: _multiplied(getattr(prototypes, name)) for name in _ROWS})
    student, weight, teacher, _, scale, _, _, index, share = prototypes
    n, k, dtype = len(student), len(weight), share.dtype
    counts = (share != 0).any(1, keepdim=True)
    if not counts.all():
        student = student.masked_fill(~counts, 0)
    rounded = student.dtype == torch.bfloat16
    gradients = _NONE if not (need_student or need_weight) else _ROUNDED if rounded else _WIDE
    losses, slopes = share.new_empty(n), share.new_empty(n)
    dstudent = share.new_empty(student.shape if need_student else 0)
    dweight = share.new_zeros(weight.shape if need_weight else 0)
    table = share.new_empty(min(n, rows_together(k, dtype)), k)
    pushed = student.new_empty(dweight.shape if rounded else 0)
    beyond = _beyond(k, rounded)
    longer = F.pad(weight, (0, 0, 0, beyond)) if beyond and need_student else weight
    softened: _Softened | _AllSoftened
    parts: Sequence[Tensor | slice]
    if n > len(table) or len(teacher) > min(len(table), index.numel()):
        softened = _Softened(prototypes)
        # Rows that follow the same rows of the teacher are taken together.
        parts = index.amax(1).argsort(stable=True).split(max(1, len(table)))
    else:
        softened, parts = _AllSoftened(prototypes), [slice(None)]
    done = 0
    for some in parts:
        rows, shares = student[some], share[some].contiguous()
        found = _multiply(rows, weight, table[: len(rows)])
        softmax, places = softened.of(index[some])
        losses_here, slopes_here = losses[done:], slopes[done:]
        _C.prototypes_compare(
            CODES[dtype], found.data_ptr(), (len(rows), k), float(scale), softmax.data_ptr(), places.data_ptr(),
            shares.data_ptr(), index.shape[1], gradients, losses_here.data_ptr(), slopes_here.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        done += len(rows)
        moved = found.view(torch.bfloat16)[:, :k] if rounded else found
        if need_student:
            dstudent[some] = ((F.pad(moved, (0, beyond)) if beyond else moved) @ longer).to(dtype)
        if need_weight and rounded:
            dweight += torch.mm(moved.T, rows, out=pushed)
        elif need_weight:
            dweight.addmm_(moved.T, rows)
    value = losses.double().sum().to(dtype)
    return value, dstudent, dweight, slopes.sum() if need_scale else share.new_empty(0)


class _AllSoftened:
    """Hold the softmaxes of all rows of the teacher, which are few."""

    def __init__(self, prototypes: Prototypes) -> None:
        self._softmax = _soften(prototypes, prototypes.teacher, None)

    def of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmaxes, and where each that the index names stands among them."""
        return self._softmax, index.contiguous()


class _Softened:
    """Hold the teacher's softmaxes that some rows follow, in memory that the next ones use again."""

    def __init__(self, prototypes: Prototypes) -> None:
        self._prototypes = prototypes
        self._table = prototypes.share.new_empty(0, len(prototypes.teacher_weight))

    def of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmaxes of the teacher's rows that the index names, and where each stands among them."""
        known, places = index.unique(return_inverse=True)
        none = int(len(known) > 0 and known[0] < 0)  # -1 comes first, and stays -1
        rows = self._prototypes.teacher[known[none:]]
        if len(self._table) < len(rows):
            self._table = self._table.new_empty(len(rows), self._table.shape[1])
        return _soften(self._prototypes, rows, self._table[: len(rows)]), places - none


def _soften(prototypes: Prototypes, rows: Tensor, out: Tensor | None) -> Tensor:
    weight, scale, bias = prototypes.teacher_weight, prototypes.teacher_scale, contiguous(prototypes.bias)
    if out is None:
        out = prototypes.share.new_empty(len(rows), len(weight))
    softmax = _multiply(rows, weight, out)
    _C.prototypes_soften(
        CODES[out.dtype], softmax.data_ptr(), tuple(softmax.shape), float(scale), pointer(bias), torch.get_num_threads()
    )
    return softmax


def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, table: Tensor | None
) -> Tensor:
    rows, weight = _multiplied(rows), _multiplied(weight)
    n, k, dtype, threads = len(rows), len(weight), scale.dtype, torch.get_num_threads()
    counts, bias = contiguous(counts), contiguous(bias)
    lowest = torch.finfo(dtype).min
    peaks, totals = scale.new_full((k,), lowest), scale.new_zeros(k)
    together = n if table is not None else rows_together(k, dtype)
    scratch = table if table is not None else scale.new_empty(min(n, together), k)
    for first in range(0, n, max(1, together)):
        some = slice(first, min(n, first + together))
        logits = table if table is not None else _multiply(rows[some], weight, scratch[: some.stop - first])
        given = CODES[dtype], logits.data_ptr(), tuple(logits.shape), float(scale)
        counted = pointer(None if counts is None else counts[some])
        if bias is None:
            _C.prototypes_columns(*given, counted, peaks.data_ptr(), totals.data_ptr(), threads)
        else:
            _C.prototypes_spread(*given, counted, bias.data_ptr(), totals.data_ptr(), threads)
    # The softmax of a row is e^(l + bias - its log-sum-exp), so the bias has to be taken off again.
    return totals.log() + (peaks if bias is None else -bias)
