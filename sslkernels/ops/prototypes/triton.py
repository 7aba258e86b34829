# SPDX-License-Identifier: Apache-2.0
"""Run the prototypes family on Triton: the tiles of the similarity family, and cuBLAS for what their weights multiply.

With S the softmax of the student's logits over prototypes W, P that of the teacher's, and m_i the sum of a row's
shares, one cross-entropy is ``lse_i - s * <z_i, c_i>`` where C = P W, and

    dZ = s * (m S W - C)
    dW = s * (S^T (m Z) - P^T (g^T Z))

A row of the teacher that several rows follow has its C once, and meets their sum. Softmaxes go through the workspace in
chunks, in the dtype of the rows, and each chunk serves both products that it is a factor of.

Cost, for N student and M teacher rows: ``8*(N + M)*K*D`` operations, less ``2*(N + M)*K*D`` where prototypes get no
gradient; a step of Sinkhorn ``4*N*K*D``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.launch import contiguous, rows_of
from sslkernels.ops.prototypes import reference
from sslkernels.ops.prototypes.schema import Prototypes
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity import triton_tiles as tiles
from sslkernels.ops.similarity.schema import Pairs, Sums
from sslkernels.ops.similarity.triton_parts import Terms, room
from sslkernels.ops.similarity.triton_plan import plan_for
from sslkernels.ops.triton_launch import floats


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    student, weight, teacher, teacher_weight, scale, teacher_scale, bias, index, share = prototypes
    if len(teacher) == 0:
        return tuple(  # type: ignore[return-value]
            floats(student, *(shape if need else (0,))).zero_()
            for shape, need in (
                ((), True),
                (student.shape, need_student),
                (weight.shape, need_weight),
                ((), need_scale),
            )
        )
    # A row that nobody compares may be no number, which even a weight of 0 would let through.
    counts, place = (share != 0).any(1, keepdim=True), index.clamp_min(0)
    followed = share.new_zeros(len(teacher)).index_add(0, place.flatten(), share.abs().flatten())[:, None] > 0
    student, teacher = student.masked_fill(~counts, 0), teacher.masked_fill(~followed, 0)
    of_student = Pairs(student, weight, scale, None)
    of_teacher = Pairs(teacher, rows_of(teacher_weight), teacher_scale, None, bias=contiguous(bias))
    (lse, _, _), (teacher_lse, _, _) = (
        similarity.forward(pairs, False, False, "triton") for pairs in (of_student, of_teacher)
    )
    share = share.masked_fill((teacher_lse == -torch.inf)[place], 0)  # no prototype is left to such a row
    rows, shares, met = widened(student), share.sum(1), None
    if need_weight:
        met = (share[..., None] * rows[:, None]).flatten(0, 1)
        met = rows.new_zeros(len(teacher), rows.shape[1]).index_add(0, place.flatten(), met)
    assigned, pulled = _assigned(of_teacher, teacher_lse, weight, met)
    target = (share[..., None] * assigned[place]).sum(1)
    along_target = (rows * target).sum(1)
    value, none = (shares * lse - scale * along_target).sum(), floats(rows, 0)
    moved, pushed, _ = similarity.backward(
        of_student, Sums(lse, shares, None, None), need_student or need_scale, need_weight, False, "triton"
    )
    return (
        value,
        (moved - target).mul_(scale) if need_student else none,
        pushed.sub_(pulled).mul_(scale) if pulled is not None else none,
        ((rows * moved).sum(1) - along_target).sum() if need_scale else none,
    )


def _assigned(of_teacher: Pairs, lse: Tensor, weight: Tensor, met: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return P W ``(M, D)`` and, if anything is met, P^T met ``(K, D)``, with the softmaxes P of the teacher."""
    teacher, (k, d) = of_teacher.x, weight.shape
    assigned, pulled, largest = floats(teacher, len(teacher), d), None, None
    if met is not None:
        pulled = floats(teacher, k, d)
        if teacher.dtype == torch.float16:  # a row weighs a share of the batch, which float16 may not hold
            largest = met.abs().max().clamp_min(torch.finfo(met.dtype).tiny)
            met = met / largest
        met = met.to(teacher.dtype)
    for (rows, columns, _), softmax in tiles.weighed(plan_for(of_teacher), of_teacher, Terms((lse, None), None, None)):
        tiles.accumulate(assigned[rows], softmax, weight[columns], first=columns.start == 0)
        if pulled is not None and met is not None:
            tiles.accumulate(pulled[columns], softmax.T, met[rows], first=rows.start == 0)
    if teacher.dtype == torch.float16:
        assigned.mul_(1 / room(teacher))
    if pulled is not None and largest is not None:
        pulled.mul_(largest / room(teacher))
    return assigned, pulled


def products(rows: Tensor, weight: Tensor) -> Tensor:
    return reference.products(rows, weight)


def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, table: Tensor | None
) -> Tensor:
    if counts is not None:
        rows = rows.masked_fill((counts == 0)[:, None], 0)
    offset = None if counts is None else counts.log()
    if bias is not None:
        lse, _, _ = similarity.forward(Pairs(rows, weight, scale, None, bias=bias), False, False, "triton")
        offset = -lse if offset is None else offset - lse
    found, _, _ = similarity.forward(Pairs(weight, rows, scale, None, bias=offset), False, False, "triton")
    return found
