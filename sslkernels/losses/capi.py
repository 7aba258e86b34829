# SPDX-License-Identifier: Apache-2.0
"""Predict the balanced assignments of masked patches, as lightly's CAPILoss does."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_device, check_index, check_number, check_rows, check_size, shape_of
from sslkernels.distributed import GroupLike, check_gathered
from sslkernels.functional.assignments import balanced, soft_cross_entropy
from sslkernels.functional.similarity import sharded
from sslkernels.modules import Module
from sslkernels.ops.tokens.bounds import check_bounds


class CAPILoss(Module):
    """CAPI (Darcet et al. 2025) with lightly's arguments: ``from sslkernels.losses import CAPILoss``.

    The mean over predicted patches of the cross-entropy of ``softmax(student / student_temperature)`` with the
    teacher's assignment of that patch. Assignments are balanced over the batch at each place of the image on its own.

    Args:
        teacher_temperature, student_temperature: positive numbers.
        sinkhorn_iterations: in which assignments are balanced.
        gather_distributed: balance over the images of every rank.

    ``forward(teacher_logits, student_logits, teacher_index=None)``: ``(B, T, K)`` and ``(B, P, K)``, and which of its T
    patches the teacher's are that the student predicts, int64 ``(B, P)``; without it all T in order. The teacher gets
    no gradient. lightly adds 1e-8 to the divisors of its Sinkhorn loop, so that a patch that is far from all prototypes
    has a target whose sum is below 1; here it is 1.

    >>> import torch
    >>> from sslkernels.losses import CAPILoss
    >>> CAPILoss()(torch.eye(3)[None], torch.zeros(1, 3, 3))
    tensor(1.0986)
    """

    def __init__(
        self,
        teacher_temperature: float = 0.06,
        student_temperature: float = 0.12,
        sinkhorn_iterations: int = 3,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.teacher_temperature = check_number("CAPILoss", "teacher_temperature", teacher_temperature, above=0.0)
        self.student_temperature = check_number("CAPILoss", "student_temperature", student_temperature, above=0.0)
        self.sinkhorn_iterations = check_size("CAPILoss", "sinkhorn_iterations", sinkhorn_iterations)
        self.gather_distributed = check_gathered("CAPILoss", gather_distributed)

    def forward(self, teacher_logits: Tensor, student_logits: Tensor, teacher_index: Tensor | None = None) -> Tensor:
        for name, logits in (("teacher_logits", teacher_logits), ("student_logits", student_logits)):
            check_rows("CAPILoss", name, logits, "(B, T, K)", dims=3)
        check_device("CAPILoss", "student_logits", student_logits, "teacher_logits", teacher_logits)
        images, patches, prototypes = student_logits.shape
        alike = (images, prototypes) == (teacher_logits.shape[0], teacher_logits.shape[2])
        if not alike or not images or not patches or (teacher_index is None and patches != teacher_logits.shape[1]):
            raise ValueError(
                f"CAPILoss: teacher_logits has shape {shape_of(teacher_logits)} and student_logits "
                f"{shape_of(student_logits)}; pass the same images and prototypes, at least one patch, and a "
                "teacher_index where the student predicts some of the teacher's patches."
            )
        group: GroupLike = "world" if self.gather_distributed else None
        settings = {"temperature": self.teacher_temperature, "iterations": self.sinkhorn_iterations}
        shard = sharded(group, "CAPILoss", teacher_logits.detach().flatten(1), **settings)
        by_place = teacher_logits.detach().transpose(0, 1)
        targets = balanced(by_place, self.teacher_temperature, self.sinkhorn_iterations, shard).transpose(0, 1)
        if teacher_index is not None:
            index = check_index("CAPILoss", "teacher_index", teacher_index, images, student_logits.device)
            if index.shape[1] != patches:
                raise ValueError(
                    f"CAPILoss: teacher_index has shape {shape_of(index)} and student_logits "
                    f"{shape_of(student_logits)}; pass one index for each patch that the student predicts."
                )
            if index.device.type == "cpu" and not torch.compiler.is_compiling():
                check_bounds(index, teacher_logits.shape[1])
            targets = targets.gather(1, index.long()[:, :, None].expand(-1, -1, prototypes))
        losses = soft_cross_entropy(student_logits, targets, self.student_temperature)
        return losses.mean() * (shard.ranks * images / shard.total(images))
