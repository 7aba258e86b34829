# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the prototypes family: cross-entropies of softmaxes over prototypes, and steps of Sinkhorn."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

PROTOTYPES = family("prototypes", kernels=("cpu", "triton"))


class Prototypes(NamedTuple):
    """Hold rows of a student and of a teacher with the prototypes of each, all in one dtype, and which rows to compare.

    The student's logits are ``scale * student @ weight.T``, and the teacher's ``teacher_scale * teacher @
    teacher_weight.T + bias``. Row i of the student follows the rows ``index[i, t]`` of the teacher.
    """

    student: Tensor  # (N, D)
    weight: Tensor  # (K, D)
    teacher: Tensor  # (M, E)
    teacher_weight: Tensor  # (K, E)
    scale: Tensor  # (), in the dtype of sums
    teacher_scale: Tensor  # ()
    bias: Tensor | None  # (K,), in the dtype of sums
    index: Tensor  # (N, T), int64; -1 for none
    share: Tensor  # (N, T), the weight of each pair, in the dtype of sums; 0 where there is none


@PROTOTYPES.op
def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ``sum_it share_it * CE(softmax of the teacher's logits, the student's)`` and its gradients.

    They are those of student, weight and scale, in the dtype of sums; those not asked for are empty. A student row
    whose shares are all 0 may hold anything.
    """
    student, weight, dtype = prototypes.student, prototypes.weight, wide(prototypes.student.dtype)
    return (
        student.new_empty((), dtype=dtype),
        student.new_empty(tuple(student.shape) if need_student else (0,), dtype=dtype),
        student.new_empty(tuple(weight.shape) if need_weight else (0,), dtype=dtype),
        student.new_empty(() if need_scale else (0,), dtype=dtype),
    )


@PROTOTYPES.op
def products(rows: Tensor, weight: Tensor, backend: str) -> Tensor:
    """Return ``rows @ weight.T`` in the dtype of sums."""
    return rows.new_empty((rows.shape[0], weight.shape[0]), dtype=wide(rows.dtype))


@PROTOTYPES.op
def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, table: Tensor | None,
    backend: str,
) -> Tensor:  # fmt: skip
    """Return ``log sum_i counts_i * exp(l_ik - v_i)`` for each prototype k, with ``l = scale * rows @ weight.T``.

    Without a bias v is 0, and with one ``v_i = log sum_k exp(l_ik + bias_k)``. A row that counts 0 times may hold
    anything. ``table`` holds ``rows @ weight.T`` where somebody kept it.
    """
    return rows.new_empty((weight.shape[0],), dtype=wide(rows.dtype))
