# SPDX-License-Identifier: Apache-2.0
"""Losses with the names, arguments and values of DINOv3, which need no process group here.

Change the import alone: ``from sslkernels.losses.dinov3 import DINOLoss, GramLoss, iBOTPatchLoss`` and so on.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_flag, check_number, check_size, shape_of
from sslkernels.functional.assignments import soft_cross_entropy
from sslkernels.functional.koleo import spread_neighbours
from sslkernels.losses import dinov2
from sslkernels.losses.dinov2 import KoLeoLoss, iBOTPatchLoss
from sslkernels.losses.gram import GramLoss
from sslkernels.modules import Module

__all__ = ["DINOLoss", "GramLoss", "KoLeoLoss", "KoLeoLossDistributed", "iBOTPatchLoss"]


class DINOLoss(dinov2.DINOLoss):
    """The loss of class tokens with DINOv3's names, and ``center (1, K)`` (Siméoni et al. 2025).

    Arguments and teachers are those of `sslkernels.losses.dinov2.DINOLoss`. ``forward(student_logits, teacher_probs,
    ignore_diagonal=False)`` takes logits ``(S, N, K)`` and targets ``(T, N, K)``: the mean over pairs, without those of
    the same view if ``ignore_diagonal`` is True, of the mean cross-entropy.

    >>> import torch
    >>> from sslkernels.losses.dinov3 import DINOLoss
    >>> DINOLoss(4)(torch.zeros(2, 3, 4), torch.full((2, 3, 4), 0.25), ignore_diagonal=True)
    tensor(1.3863)
    """

    def forward(  # type: ignore[override]
        self, student_logits: Tensor, teacher_probs: Tensor, ignore_diagonal: bool = False
    ) -> Tensor:
        self._logits("student_logits", student_logits, "(S, N, K)", dims=3)
        self._logits("teacher_probs", teacher_probs, "(T, N, K)", dims=3)
        ignore = check_flag("DINOLoss", "ignore_diagonal", ignore_diagonal)
        views, rows, _ = student_logits.shape
        teachers = len(teacher_probs)
        terms = views * teachers - ignore * min(views, teachers)
        if teacher_probs.shape[1] != rows or not rows or not terms:
            raise ValueError(
                f"DINOLoss: student_logits has shape {shape_of(student_logits)} and teacher_probs "
                f"{shape_of(teacher_probs)}; pass views of the same images, at least one, and pairs of unlike views if "
                "ignore_diagonal is True."
            )
        targets = teacher_probs.detach().sum(0)
        total = self.center.new_zeros(())
        for place, view in enumerate(student_logits):
            others = targets
            if ignore and place < teachers:
                others = teacher_probs.detach()[[other for other in range(teachers) if other != place]].sum(0)
            total = total + soft_cross_entropy(view, others, self.student_temp).mean()
        return total / terms


class KoLeoLossDistributed(Module):
    """`sslkernels.functional.koleo` over the rows of all ranks: ``forward(student_output, eps=1e-8)``.

    Args:
        topk: 1 alone; DINOv3 can take the mean over several neighbours.
        loss_group_size: rows find neighbours among so many consecutive ones of all ranks; among all without it.

    The mean over ranks is the loss of the concatenated batch.

    >>> import torch
    >>> from sslkernels.losses.dinov3 import KoLeoLossDistributed
    >>> KoLeoLossDistributed(loss_group_size=3)(torch.eye(3).repeat(2, 1))
    tensor(-0.3466)
    """

    def __init__(self, topk: int = 1, loss_group_size: int | None = None) -> None:
        super().__init__()
        self.topk = check_size("KoLeoLossDistributed", "topk", topk, most=1)
        self.loss_group_size = loss_group_size
        if loss_group_size is not None:
            self.loss_group_size = check_size("KoLeoLossDistributed", "loss_group_size", loss_group_size, least=2)

    def forward(self, student_output: Tensor, eps: float = 1e-8) -> Tensor:
        function, size = "KoLeoLossDistributed", self.loss_group_size
        eps = check_number(function, "eps", eps, above=0.0)
        return spread_neighbours(function, "student_output", student_output, eps, group_size=size, group="world")
