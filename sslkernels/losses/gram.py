# SPDX-License-Identifier: Apache-2.0
"""The Gram loss as a module, with DINOv3's arguments."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_flag, check_rows, check_tensor, shape_of
from sslkernels.functional.gram import gram_loss
from sslkernels.modules import Module


class GramLoss(Module):
    """`sslkernels.functional.gram_loss` with DINOv3's arguments, which give other defaults than its configurations.

    Args:
        apply_norm: divide rows by their norms.
        img_level: accepted and unused, as in DINOv3: ``forward`` has one of its own.
        remove_neg: similarities below zero count as zero, ``clip="both"``.
        remove_only_teacher_neg: so where the teacher's are below zero, ``clip="teacher"``; not with ``remove_neg``.

    ``forward(output_feats, target_feats, img_level=True)``: ``(B, P, D)`` each, patches of one image compared with each
    other; without ``img_level`` those of all images, ``(B, P, D)`` or ``(B*P, D)``.

    >>> import torch
    >>> from sslkernels.losses.dinov3 import GramLoss
    >>> GramLoss()(torch.eye(2)[None], torch.ones(1, 2, 2))
    tensor(0.5000)
    """

    def __init__(
        self,
        apply_norm: bool = True,
        img_level: bool = True,
        remove_neg: bool = True,
        remove_only_teacher_neg: bool = False,
    ) -> None:
        super().__init__()
        self.apply_norm = check_flag("GramLoss", "apply_norm", apply_norm)
        check_flag("GramLoss", "img_level", img_level)
        self.remove_neg = check_flag("GramLoss", "remove_neg", remove_neg)
        self.remove_only_teacher_neg = check_flag("GramLoss", "remove_only_teacher_neg", remove_only_teacher_neg)
        if self.remove_neg and self.remove_only_teacher_neg:
            raise ValueError(
                "GramLoss: remove_neg and remove_only_teacher_neg are both True; pass one of them as False."
            )

    def forward(self, output_feats: Tensor, target_feats: Tensor, img_level: bool = True) -> Tensor:
        level = check_flag("GramLoss", "img_level", img_level)
        feats = []
        for name, value in (("output_feats", output_feats), ("target_feats", target_feats)):
            expected = "(B, P, D)" if level else "(B, P, D) or (B*P, D)"
            rows = check_tensor("GramLoss", name, value, expected)
            check_rows("GramLoss", name, rows, expected, 2 if not level and rows.dim() == 2 else 3)
            feats.append(rows if level else rows.reshape(1, -1, rows.shape[-1]))
        if feats[0].shape[:2] != feats[1].shape[:2] or not feats[0].numel():
            raise ValueError(
                f"GramLoss: output_feats has shape {shape_of(output_feats)} and target_feats {shape_of(target_feats)}; "
                "pass the same patches of the same images, at least one."
            )
        clip = "both" if self.remove_neg else "teacher" if self.remove_only_teacher_neg else "none"
        return gram_loss(feats[0], feats[1], normalize=self.apply_norm, clip=clip)
