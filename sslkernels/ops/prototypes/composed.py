# SPDX-License-Identifier: Apache-2.0
"""Compose the family of attention and log-sum-exps, so that no rows x K numbers are ever there.

With S the softmax of the student's logits over prototypes W, and P that of the teacher's, one cross-entropy is
``lse_i - s * <z_i, c_i>`` where C = P W. So the teacher is an attention whose values are the student's prototypes, and

    dZ = s * (g S W - C)            S W comes with the log-sum-exps
    dW = s * (S^T (g Z) - P^T (g Z))

A teacher row that several student rows follow attends once, and meets the sum of their gradients.

Cost, for N student and M teacher rows: ``4*(N + M)*K*D`` operations for the value and the students' gradient, and as
many for that of the prototypes; a step of Sinkhorn ``4*N*K*D``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.attention import schema as attention
from sslkernels.ops.attention.schema import Attention, Wanted
from sslkernels.ops.dtypes import widened
from sslkernels.ops.prototypes.schema import Prototypes
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.schema import Pairs, Sums


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    student, weight, teacher, teacher_weight, scale, teacher_scale, bias, index, share = prototypes
    # A row that nobody compares may be no number, which even a weight of 0 would let through.
    counts, place = (share != 0).any(1, keepdim=True), index.clamp_min(0)
    followed = share.new_zeros(len(teacher)).index_add(0, place.flatten(), share.abs().flatten())[:, None] > 0
    student, teacher = student.masked_fill(~counts, 0), teacher.masked_fill(~followed, 0)
    of_student = Pairs(student, weight, scale, None)
    of_teacher = Attention(teacher, teacher_weight, weight, teacher_scale, bias, None)
    attended, teacher_lse = attention.forward(of_teacher, backend)
    share = share.masked_fill((teacher_lse == -torch.inf)[place], 0)  # no prototype is left to such a row
    rows, shares = widened(student), share.sum(1)
    target = (share[..., None] * attended[place]).sum(1)
    along_target = (rows * target).sum(1)
    lse, _, mean = similarity.forward(of_student, False, need_student or need_weight or need_scale, backend)
    value = (shares * lse - scale * along_target).sum()
    dweight = value.new_empty(0)
    if need_weight:
        _, pushed, _ = similarity.backward(of_student, Sums(lse, shares, None, None), False, True, False, backend)
        met = (share[..., None] * rows[:, None]).flatten(0, 1)
        met = rows.new_zeros(len(teacher), rows.shape[1]).index_add(0, place.flatten(), met)
        values_alone = Wanted(False, False, True, False)
        _, _, pulled, _ = attention.backward(of_teacher, attended, teacher_lse, met, values_alone, backend)
        dweight = scale * (pushed - pulled)
    return (
        value,
        scale * (shares[:, None] * mean - target) if need_student else value.new_empty(0),
        dweight,
        (shares * (rows * mean).sum(1) - along_target).sum() if need_scale else value.new_empty(0),
    )


def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, backend: str
) -> Tensor:
    if counts is not None:
        rows = rows.masked_fill((counts == 0)[:, None], 0)
    offset = None if counts is None else counts.log()
    if bias is not None:
        lse, _, _ = similarity.forward(Pairs(rows, weight, scale, None, bias=bias), False, False, backend)
        offset = -lse if offset is None else offset - lse
    found, _, _ = similarity.forward(Pairs(weight, rows, scale, None, bias=offset), False, False, backend)
    return found
