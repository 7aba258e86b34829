# SPDX-License-Identifier: Apache-2.0
"""Run the prototypes family on the compiled C++ kernels.

Softmaxes are compared without a table of logits. The steps of Sinkhorn take one, some rows at a time, which torch.mm
writes. In 16 bits it would round what it writes, which would be felt in every softmax. So our own kernel multiplies
rows of bfloat16 where instructions for that add up in float32, and else rows of 16 bits are multiplied as float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C, backends
from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.launch import CODES, contiguous, pointer, rows_of
from sslkernels.ops.prototypes.schema import Prototypes


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


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    student, weight, teacher, teacher_weight, scale, teacher_scale, bias, index, share = prototypes
    student, weight, teacher, teacher_weight = map(rows_of, (student, weight, teacher, teacher_weight))
    bias, index, share = contiguous(bias), index.contiguous(), share.contiguous()
    value = share.new_empty(())
    dstudent = share.new_empty(student.shape if need_student else 0)
    dweight = share.new_empty(weight.shape if need_weight else 0)
    dscale = share.new_empty(() if need_scale else 0)
    _C.prototypes_compare(
        CODES[student.dtype], student.data_ptr(), student.stride(0), weight.data_ptr(), weight.stride(0),
        student.shape[1], teacher.data_ptr(), teacher.stride(0), teacher_weight.data_ptr(), teacher_weight.stride(0),
        teacher.shape[1], (len(student), len(weight), len(teacher)), float(scale), float(teacher_scale),
        pointer(bias), index.data_ptr(), share.data_ptr(), index.shape[1], backends.WORKSPACE // 4,
        kept(student.dtype), value.data_ptr(), pointer(dstudent if need_student else None),
        pointer(dweight if need_weight else None), pointer(dscale if need_scale else None), torch.get_num_threads(),
    )  # fmt: skip
    return value, dstudent, dweight, dscale


def kept(dtype: torch.dtype) -> int:
    """Count the bytes of logits that stay until their gradient is taken; others are computed again.

    The matrix unit computes those of bfloat16 in less time than memory takes to write and to read them.
    """
    return 0 if dtype == torch.bfloat16 and _C.isa() == "amx" else backends.WORKSPACE // 4


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
