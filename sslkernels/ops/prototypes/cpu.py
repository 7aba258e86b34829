# SPDX-License-Identifier: Apache-2.0
"""Run the prototypes family on tables of products, some rows at a time, and on the compiled C++ kernels.

torch.mm writes the products of some rows with all prototypes. A kernel turns them into gradients, in place, and
torch.mm multiplies these with rows and prototypes. So each product is formed once, and a table is as large as the
workspace allows. Rows of 16 bits are multiplied as float32: a product in 16 bits rounds what it writes, which would be
felt in every softmax.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C, backends
from sslkernels.ops.dtypes import widened
from sslkernels.ops.launch import CODES, contiguous, pointer
from sslkernels.ops.prototypes.schema import Prototypes

_ROWS = ("student", "weight", "teacher", "teacher_weight")


def rows_together(prototypes: int, dtype: torch.dtype) -> int:
    """Count the rows whose products are a quarter of the workspace, and at least one."""
    return max(1, backends.WORKSPACE // 4 // (prototypes * dtype.itemsize))


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    prototypes = prototypes._replace(**{name: widened(getattr(prototypes, name)) for name in _ROWS})
    student, weight, _, _, scale, _, _, index, share = prototypes
    n, k, dtype = len(student), len(weight), student.dtype
    gradient = need_student or need_weight
    losses, slopes = student.new_empty(n), student.new_empty(n)
    dstudent = student.new_empty(student.shape if need_student else 0)
    dweight = student.new_zeros(weight.shape if need_weight else 0)
    softened = _Softened(prototypes)
    table = student.new_empty(min(n, rows_together(k, dtype)), k)
    # Rows that follow the same rows of the teacher are taken together.
    order, done = index.amax(1).argsort(stable=True), 0
    for some in order.split(max(1, len(table))):
        shares = share[some]
        rows = student[some].masked_fill(~(shares != 0).any(1, keepdim=True), 0)
        products = torch.mm(rows, weight.T, out=table[: len(some)])
        softmax, places = softened.of(index[some])
        found = losses[done:], slopes[done:]
        _C.prototypes_compare(
            CODES[dtype], products.data_ptr(), (len(some), k), float(scale), softmax.data_ptr(), places.data_ptr(),
            shares.data_ptr(), index.shape[1], gradient, found[0].data_ptr(), found[1].data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        done += len(some)
        if need_student:
            dstudent[some] = products @ weight
        if need_weight:
            dweight.addmm_(products.T, rows)
    value = losses.double().sum().to(dtype)
    return value, dstudent, dweight, slopes.sum() if need_scale else student.new_empty(0)


class _Softened:
    """Hold the teacher's softmaxes that some rows follow, in memory that the next ones use again."""

    def __init__(self, prototypes: Prototypes) -> None:
        _, self._weight, self._rows, self._targets, _, self._scale, bias, _, _ = prototypes
        self._bias = None if bias is None else bias.contiguous()
        self._table = self._rows.new_empty(0, len(self._weight))

    def of(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the softmaxes of the teacher's rows that the index names, and where each stands among them."""
        known, places = index.unique(return_inverse=True)
        none = int(len(known) > 0 and known[0] < 0)  # -1 comes first, and stays -1
        rows = self._rows[known[none:]]
        if len(self._table) < len(rows):
            self._table = rows.new_empty(len(rows), len(self._weight))
        softmax = torch.mm(rows, self._targets.T, out=self._table[: len(rows)])
        _C.prototypes_soften(
            CODES[rows.dtype], softmax.data_ptr(), tuple(softmax.shape), float(self._scale), pointer(self._bias),
            torch.get_num_threads(),
        )  # fmt: skip
        return softmax, places - none


def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, table: Tensor | None
) -> Tensor:
    rows, weight = widened(rows), widened(weight)
    n, k, dtype, threads = len(rows), len(weight), rows.dtype, torch.get_num_threads()
    counts, bias = contiguous(counts), contiguous(bias)
    lowest = torch.finfo(dtype).min
    peaks, totals = rows.new_full((k,), lowest), rows.new_zeros(k)
    together = n if table is not None else rows_together(k, dtype)
    scratch = table if table is not None else rows.new_empty(min(n, together), k)
    for first in range(0, n, max(1, together)):
        some = slice(first, min(n, first + together))
        products = table if table is not None else torch.mm(rows[some], weight.T, out=scratch[: some.stop - first])
        given = CODES[dtype], products.data_ptr(), tuple(products.shape), float(scale)
        counted = pointer(None if counts is None else counts[some])
        if bias is None:
            _C.prototypes_columns(*given, counted, peaks.data_ptr(), totals.data_ptr(), threads)
        else:
            _C.prototypes_spread(*given, counted, bias.data_ptr(), totals.data_ptr(), threads)
    # The softmax of a row is e^(l + bias - its log-sum-exp), so the bias has to be taken off again.
    return totals.log() + (peaks if bias is None else -bias)
