# SPDX-License-Identifier: Apache-2.0
"""Self-distillation over prototypes as in lightly: DINOLoss of whole images and IBOTPatchLoss of masked patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_choice,
    check_device,
    check_list,
    check_number,
    check_rows,
    check_size,
    check_tensor,
    shape_of,
)
from sslkernels.functional.assignments import centred, soft_cross_entropy
from sslkernels.losses.center import Centred, check_prototypes, sums_of
from sslkernels.modules import Module

LOGITS = "(N, K), one logit for each prototype"


class DINOLoss(Centred):
    """DINO (Caron et al. 2021) with lightly's arguments: ``from sslkernels.losses import DINOLoss``.

    The mean over pairs of a teacher's view t and a student's view s != t, and over images, of the cross-entropy of
    ``softmax(s / student_temp)`` with ``softmax((t - center) / teacher_temp)``.

    Args:
        output_dim: K, the number of prototypes.
        warmup_teacher_temp, teacher_temp, warmup_teacher_temp_epochs: the teacher's temperature goes from the first to
            the second in so many epochs, where ``forward`` is told the epoch; it is ``teacher_temp`` otherwise.
        student_temp: the student's temperature.
        center_momentum: share of the centre that a step keeps.
        center_mode: "mean" alone.

    ``forward(teacher_out, student_out, teacher_temp=None, epoch=None)`` takes lists of views, ``(N, K)`` each, the
    teacher's first among the student's, and gives a 0-dim loss. The teacher gets no gradient. After the loss the centre
    moves to the mean of the teacher's logits of all ranks, in training mode alone; lightly's moves in evaluation too.
    All is computed in float32 (float64 for float64), and each student's view once for all teachers.

    >>> import torch
    >>> from sslkernels.losses import DINOLoss
    >>> views = [torch.zeros(2, 4), torch.zeros(2, 4)]
    >>> DINOLoss(output_dim=4)(views, views)
    tensor(1.3863)
    """

    def __init__(
        self,
        output_dim: int = 65536,
        warmup_teacher_temp: float = 0.04,
        teacher_temp: float = 0.04,
        warmup_teacher_temp_epochs: int = 30,
        student_temp: float = 0.1,
        center_momentum: float = 0.9,
        center_mode: str = "mean",
    ) -> None:
        super().__init__("DINOLoss", "output_dim", output_dim, 3, center_momentum)
        check_choice("DINOLoss", "center_mode", center_mode, ("mean",))
        first = check_number("DINOLoss", "warmup_teacher_temp", warmup_teacher_temp, above=0.0)
        self.teacher_temp = check_number("DINOLoss", "teacher_temp", teacher_temp, above=0.0)
        self.student_temp = check_number("DINOLoss", "student_temp", student_temp, above=0.0)
        epochs = check_size("DINOLoss", "warmup_teacher_temp_epochs", warmup_teacher_temp_epochs, least=0)
        self.warmup_teacher_temp_epochs = epochs
        self.teacher_temp_schedule = torch.linspace(first, self.teacher_temp, epochs)

    def forward(
        self,
        teacher_out: Sequence[Tensor],
        student_out: Sequence[Tensor],
        teacher_temp: float | None = None,
        epoch: int | None = None,
    ) -> Tensor:
        teachers, students = (
            check_list("DINOLoss", name, views, "a list of views (N, K)")
            for name, views in (("teacher_out", teacher_out), ("student_out", student_out))
        )
        _check_views(teachers, students, self.center)
        temperature = self._temperature(teacher_temp, epoch)
        targets = [centred(view, self.center[0], temperature) for view in teachers]
        total, terms = targets[0].new_zeros(()), 0
        for place, view in enumerate(students):
            others = [target for other, target in enumerate(targets) if other != place]
            if others:
                total = total + soft_cross_entropy(view, sum(others[1:], others[0]), self.student_temp).sum()
            terms += len(others)
        loss = total / (terms * len(teachers[0]))
        if self.training:
            self._move_center(sum(map(sums_of, teachers)), sum(map(len, teachers)))
        return loss

    def _temperature(self, teacher_temp: float | None, epoch: int | None) -> float:
        if teacher_temp is not None:
            return check_number("DINOLoss", "teacher_temp", teacher_temp, above=0.0)
        if epoch is not None and check_size("DINOLoss", "epoch", epoch, least=0) < self.warmup_teacher_temp_epochs:
            return float(self.teacher_temp_schedule[epoch])
        return self.teacher_temp


def _check_views(teachers: list[Tensor], students: list[Tensor], center: Tensor) -> None:
    named = [("teacher_out", teachers), ("student_out", students)]
    for name, views in named:
        for place, view in enumerate(views):
            check_prototypes("DINOLoss", name, check_rows("DINOLoss", f"{name}[{place}]", view, LOGITS), center)
            check_device("DINOLoss", f"{name}[{place}]", view, "the center", center)
    if len({len(view) for view in (*teachers, *students)}) > 1:
        lengths = [[len(view) for view in views] for _, views in named]
        raise ValueError(
            f"DINOLoss: views of teacher_out have {lengths[0]} rows and those of student_out {lengths[1]}; "
            "pass views of the same images."
        )
    if not teachers or not students or len(teachers) == len(students) == 1:
        raise ValueError(
            f"DINOLoss: teacher_out has length {len(teachers)} and student_out {len(students)}; no view of one is left "
            "beside the same view of the other, so pass two views or more."
        )
    if not len(teachers[0]):
        raise ValueError(f"DINOLoss: teacher_out[0] has shape {shape_of(teachers[0])}; pass at least one row.")


class Center(Centred):
    """The centre of lightly's IBOTPatchLoss, under the name ``center.center`` of its checkpoints."""

    @property
    def value(self) -> Tensor:
        return self.center


class IBOTPatchLoss(Module):
    """The loss of masked patches of iBOT (Zhou et al. 2022) with lightly's arguments.

    ``from sslkernels.losses import IBOTPatchLoss`` is the whole change. The mean over images of the mean over their
    masked patches of the cross-entropy of ``softmax(s / student_temp)`` with ``softmax((t - center) / teacher_temp)``.

    Args:
        output_dim: K, the number of prototypes.
        teacher_temp, student_temp, center_mode, center_momentum: as in `DINOLoss`.

    ``forward(teacher_out, student_out, mask, teacher_temp=None)``: logits ``(M, K)`` of the M patches that the bool
    ``mask (B, H, W)`` marks, in its order. The teacher gets no gradient, and the centre moves as in `DINOLoss`, by the
    mean over all masked patches of all ranks. A batch without masked patches has loss 0.

    >>> import torch
    >>> from sslkernels.losses import IBOTPatchLoss
    >>> mask = torch.tensor([[[True, False], [True, False]]])
    >>> IBOTPatchLoss(output_dim=4)(torch.zeros(2, 4), torch.zeros(2, 4), mask)
    tensor(1.3863)
    """

    def __init__(
        self,
        output_dim: int = 65536,
        teacher_temp: float = 0.04,
        student_temp: float = 0.1,
        center_mode: str = "mean",
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_choice("IBOTPatchLoss", "center_mode", center_mode, ("mean",))
        self.teacher_temp = check_number("IBOTPatchLoss", "teacher_temp", teacher_temp, above=0.0)
        self.student_temp = check_number("IBOTPatchLoss", "student_temp", student_temp, above=0.0)
        self.center = Center("IBOTPatchLoss", "output_dim", output_dim, 2, center_momentum)

    def forward(
        self, teacher_out: Tensor, student_out: Tensor, mask: Tensor, teacher_temp: float | None = None
    ) -> Tensor:
        for name, logits in (("teacher_out", teacher_out), ("student_out", student_out)):
            check_rows("IBOTPatchLoss", name, logits, LOGITS)
            check_prototypes("IBOTPatchLoss", name, logits, self.center.value)
            check_device("IBOTPatchLoss", name, logits, "the center", self.center.value)
        temperature = self.teacher_temp
        if teacher_temp is not None:
            temperature = check_number("IBOTPatchLoss", "teacher_temp", teacher_temp, above=0.0)
        weights = _weights(mask, teacher_out, student_out)
        targets = centred(teacher_out, self.center.value, temperature)
        losses = soft_cross_entropy(student_out, targets, self.student_temp)
        loss = (losses * weights.to(losses.dtype)).sum() / len(mask)
        if self.training:
            self.center._move_center(sums_of(teacher_out), len(teacher_out))
        return loss


def _weights(mask: Tensor, teacher_out: Tensor, student_out: Tensor) -> Tensor:
    """Return for each masked patch 1 over the number of them in its image, ``(M,)``."""
    check_tensor("IBOTPatchLoss", "mask", mask, "(B, H, W), bool")
    if mask.dtype != torch.bool:
        raise TypeError(f"IBOTPatchLoss: mask has dtype {mask.dtype}; pass a bool tensor that is True where masked.")
    if mask.dim() != 3 or not len(mask):
        raise ValueError(f"IBOTPatchLoss: mask has shape {shape_of(mask)}; expected (B, H, W) with at least one image.")
    check_device("IBOTPatchLoss", "mask", mask, "teacher_out", teacher_out)
    share = 1 / mask.sum((1, 2), keepdim=True).clamp(min=1)
    weights = share.expand(mask.shape)[mask]
    if torch.compiler.is_compiling():  # how many patches a mask marks is not known while it is traced
        torch._check(len(weights) == len(teacher_out))
        torch._check(len(weights) == len(student_out))
    elif not len(weights) == len(teacher_out) == len(student_out):
        raise ValueError(
            f"IBOTPatchLoss: mask marks {len(weights)} patches, teacher_out has shape {shape_of(teacher_out)} and "
            f"student_out {shape_of(student_out)}; pass one row for each masked patch."
        )
    return weights
