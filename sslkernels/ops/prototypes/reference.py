# SPDX-License-Identifier: Apache-2.0
"""Run the prototypes family in plain PyTorch: the specification of every other backend, and a backend of its own.

Logits are fp32 (fp64 for fp64 rows) and stored whole, in O(rows * K) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.prototypes.schema import Prototypes


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum share * sum_k P_k (lse - l_k), whose gradient by the logits is share * (softmax(l) - P)."""
    student, weight, teacher, teacher_weight, scale, teacher_scale, bias, index, share = prototypes
    counts = (share != 0).any(1, keepdim=True)
    rows, prototype = widened(student).masked_fill(~counts, 0), widened(weight)
    logits = teacher_scale * (widened(teacher) @ widened(teacher_weight).T)
    logits = logits if bias is None else logits + bias
    softmax = logits.softmax(1).masked_fill((logits == -torch.inf).all(1, keepdim=True), 0)
    spare = torch.cat([softmax, torch.zeros_like(softmax[:1] if len(softmax) else logits.new_zeros(1, len(weight)))])
    target = logits.new_zeros(len(student), len(weight))
    for t in range(index.shape[1]):  # a row of the teacher at a time; the last of `spare` stands for none
        target += share[:, t, None] * spare[index[:, t]].masked_fill(share[:, t, None] == 0, 0)
    products = rows @ prototype.T
    logits, shares = scale * products, target.sum(1, keepdim=True)
    logs = logits.log_softmax(1)
    value = -(target * logs).sum()
    slopes = (shares * logs.exp() - target).masked_fill(~counts, 0)
    return (
        value,
        scale * (slopes @ prototype) if need_student else value.new_empty(0),
        scale * (slopes.T @ rows) if need_weight else value.new_empty(0),
        (slopes * products).sum() if need_scale else value.new_empty(0),
    )


def products(rows: Tensor, weight: Tensor) -> Tensor:
    return widened(rows) @ widened(weight).T


def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, table: Tensor | None
) -> Tensor:
    logits = scale * (widened(rows) @ widened(weight).T if table is None else table)
    if counts is not None:
        logits = logits.masked_fill((counts == 0)[:, None], 0)
    logs = logits if bias is None else logits - (logits + bias).logsumexp(1, keepdim=True)
    return (logs if counts is None else logs + counts.log()[:, None]).logsumexp(0)
