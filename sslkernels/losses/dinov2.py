# SPDX-License-Identifier: Apache-2.0
"""Losses with the names, arguments and values of DINOv2, which need no process group here.

Change the import alone: ``from sslkernels.losses.dinov2 import DINOLoss, KoLeoLoss, iBOTPatchLoss``. They take logits.
Where torch.distributed is initialised, targets are balanced and centres are means over all ranks, as there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import check_device, check_list, check_number, check_size, check_tensor, shape_of
from sslkernels.functional.assignments import soft_cross_entropy
from sslkernels.functional.koleo import spread_neighbours
from sslkernels.losses.gram import GramLoss
from sslkernels.losses.targets import Teacher
from sslkernels.modules import Module

__all__ = ["DINOLoss", "GramLoss", "KoLeoLoss", "iBOTPatchLoss"]


class DINOLoss(Teacher):
    """The loss of class tokens with DINOv2's names, and ``center (1, K)`` (Oquab et al. 2023).

    Args:
        out_dim: K, the number of prototypes.
        student_temp: the student's temperature.
        center_momentum: share of the centre that a step keeps.

    ``forward(student_output_list, teacher_out_softmaxed_centered_list)`` takes lists of the student's logits and of
    targets, ``(N, K)`` each, or a tensor of targets ``(T, N, K)``: the sum over all pairs of the mean cross-entropy. A
    student's softmax is computed once for all targets.

    >>> import torch
    >>> from sslkernels.losses.dinov2 import DINOLoss
    >>> loss = DINOLoss(4)
    >>> targets = loss.sinkhorn_knopp_teacher(torch.eye(4), teacher_temp=0.07)
    >>> loss([torch.zeros(4, 4)], [targets])
    tensor(1.3863)
    """

    def __init__(self, out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9) -> None:
        super().__init__("out_dim", out_dim, 2, student_temp, center_momentum)

    @torch.no_grad()
    def sinkhorn_knopp_teacher(self, teacher_output: Tensor, teacher_temp: float, n_iterations: int = 3) -> Tensor:
        """Return the targets of logits ``(N, K)`` that Sinkhorn-Knopp balances over the rows of all ranks, float32.

        Logits of any size are taken; DINOv2's exponentials overflow.
        """
        logits = self._logits("teacher_output", teacher_output, "(N, K)", dims=2)
        return self._balanced(logits, teacher_temp, n_iterations, None)

    def forward(
        self,
        student_output_list: Sequence[Tensor],
        teacher_out_softmaxed_centered_list: Tensor | Sequence[Tensor],
    ) -> Tensor:
        name, targets = "teacher_out_softmaxed_centered_list", teacher_out_softmaxed_centered_list
        students = check_list("DINOLoss", "student_output_list", student_output_list, "a list of logits (N, K)")
        teachers = list(targets) if isinstance(targets, Tensor) and targets.dim() == 3 else targets
        teachers = check_list("DINOLoss", name, teachers, "a list of targets (N, K), or a tensor (T, N, K)")
        for called, views in (("student_output_list", students), (name, teachers)):
            for place, view in enumerate(views):
                self._logits(f"{called}[{place}]", view, "(N, K)", dims=2)
        lengths = [[len(view) for view in views] for views in (students, teachers)]
        if len({*lengths[0], *lengths[1]}) != 1 or not all(lengths) or not lengths[0][0]:
            raise ValueError(
                f"DINOLoss: student_output_list has views of {lengths[0]} rows and {name} of {lengths[1]}; "
                "pass views of the same images, at least one."
            )
        target = sum(teachers[1:], teachers[0]).detach()
        losses = [soft_cross_entropy(view, target, self.student_temp).mean() for view in students]
        return sum(losses[1:], losses[0])


class iBOTPatchLoss(Teacher):
    """The loss of masked patches, with ``center (1, 1, K)``.

    Args:
        patch_out_dim: K, the number of prototypes.
        student_temp, center_momentum: as in `DINOLoss`.

    ``forward(student_patch_tokens, teacher_patch_tokens, student_masks_flat)`` takes logits and targets ``(B, N, K)``
    of all patches and a mask ``(B, N)``: the mean over images of the mean over their masked patches of the
    cross-entropy. `forward_masked` takes masked patches alone.

    >>> import torch
    >>> from sslkernels.losses.dinov2 import iBOTPatchLoss
    >>> loss, mask = iBOTPatchLoss(4), torch.tensor([[True, False, True]])
    >>> targets = loss.sinkhorn_knopp_teacher(torch.eye(4)[:2], 0.07, n_masked_patches_tensor=torch.tensor([2]))
    >>> loss.forward_masked(torch.zeros(2, 4), targets, mask)
    tensor(1.3863)
    """

    def __init__(self, patch_out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9) -> None:
        super().__init__("patch_out_dim", patch_out_dim, 3, student_temp, center_momentum)

    @torch.no_grad()
    def sinkhorn_knopp_teacher(
        self, teacher_output: Tensor, teacher_temp: float, n_masked_patches_tensor: Tensor | int, n_iterations: int = 3
    ) -> Tensor:
        """Return the targets of logits ``(M, K)`` that Sinkhorn-Knopp balances over the rows of all ranks, float32.

        Rows from ``n_masked_patches_tensor`` on, of which DINOv2 may have some for padding, have no part in it. Ranks
        may hold different numbers of rows, and none. DINOv2 writes the sum over ranks into ``n_masked_patches_tensor``;
        here it is only read.
        """
        logits = self._logits("teacher_output", teacher_output, "(M, K)", dims=2)
        counted = torch.arange(len(logits), device=logits.device) < n_masked_patches_tensor
        return self._balanced(logits, teacher_temp, n_iterations, counted[:, None])

    def forward(self, student_patch_tokens: Tensor, teacher_patch_tokens: Tensor, student_masks_flat: Tensor) -> Tensor:
        self._check_pair(student_patch_tokens, teacher_patch_tokens, "patch_tokens", 3)
        mask = self._mask(student_masks_flat, student_patch_tokens)
        losses = soft_cross_entropy(student_patch_tokens, teacher_patch_tokens.detach(), self.student_temp)
        if mask.shape != losses.shape:
            raise ValueError(
                f"iBOTPatchLoss: student_masks_flat has shape {shape_of(mask)} and student_patch_tokens "
                f"{shape_of(student_patch_tokens)}; pass a mask of each patch."
            )
        mask = mask.to(losses.dtype)
        return ((losses * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()

    def forward_masked(
        self,
        student_patch_tokens_masked: Tensor,
        teacher_patch_tokens_masked: Tensor,
        student_masks_flat: Tensor,
        n_masked_patches: int | None = None,
        masks_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of logits and targets ``(M, K)`` of the M patches that ``student_masks_flat (B, N)`` marks.

        Rows from ``n_masked_patches`` on are padding. ``masks_weight (M,)`` is 1 over the number of masked patches of
        the image of each unless it is given; the weighted sum is divided by B. Without masked patches it is 0.
        """
        student, teacher = student_patch_tokens_masked, teacher_patch_tokens_masked
        if n_masked_patches is not None:
            n_masked_patches = check_size("iBOTPatchLoss", "n_masked_patches", n_masked_patches, least=0)
            student, teacher = student[:n_masked_patches], teacher[:n_masked_patches]
        self._check_pair(student, teacher, "patch_tokens_masked", 2)
        mask = self._mask(student_masks_flat, student)
        if masks_weight is None:
            masks_weight = (1 / mask.sum(-1, keepdim=True).clamp(min=1)).expand(mask.shape)[mask]
        weights = check_tensor("iBOTPatchLoss", "masks_weight", masks_weight, "(M,)")
        if torch.compiler.is_compiling():  # how many patches a mask marks is not known while it is traced
            torch._check(weights.numel() == len(student))
        elif weights.shape != student.shape[:1]:
            raise ValueError(
                f"iBOTPatchLoss: there are {weights.numel()} masked patches and student_patch_tokens_masked has shape "
                f"{shape_of(student)}; pass one row for each."
            )
        losses = soft_cross_entropy(student, teacher.detach(), self.student_temp)
        return (losses * weights.to(losses.dtype)).sum() / len(mask)

    def _check_pair(self, student: Tensor, teacher: Tensor, name: str, dims: int) -> None:
        expected = "(B, N, K)" if dims == 3 else "(M, K)"
        self._logits(f"student_{name}", student, expected, dims)
        self._logits(f"teacher_{name}", teacher, expected, dims)
        if student.shape != teacher.shape:
            raise ValueError(
                f"iBOTPatchLoss: student_{name} has shape {shape_of(student)} and teacher_{name} {shape_of(teacher)}; "
                "pass the same patches."
            )

    def _mask(self, mask: Tensor, student: Tensor) -> Tensor:
        check_tensor("iBOTPatchLoss", "student_masks_flat", mask, "(B, N), bool")
        if mask.dim() != 2 or not len(mask) or mask.dtype != torch.bool:
            raise ValueError(
                f"iBOTPatchLoss: student_masks_flat has shape {shape_of(mask)} and dtype {mask.dtype}; expected bool "
                "(B, N) with at least one image."
            )
        check_device("iBOTPatchLoss", "student_masks_flat", mask, "the student's logits", student)
        return mask


class KoLeoLoss(Module):
    """`sslkernels.functional.koleo` of this rank's rows: ``forward(student_output, eps=1e-8)`` with ``(N, D)``.

    Rows of 16 bits are computed in float32, where DINOv2's loss is infinite in float16 if two of them are equal. A
    single row is an error; there it takes itself for its neighbour.

    >>> import torch
    >>> from sslkernels.losses.dinov2 import KoLeoLoss
    >>> KoLeoLoss()(torch.eye(3))
    tensor(-0.3466)
    """

    def forward(self, student_output: Tensor, eps: float = 1e-8) -> Tensor:
        eps = check_number("KoLeoLoss", "eps", eps, above=0.0)
        return spread_neighbours("KoLeoLoss", "student_output", student_output, eps)
