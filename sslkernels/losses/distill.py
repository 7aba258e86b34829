# SPDX-License-Identifier: Apache-2.0
"""DistillClipLoss as in open_clip."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_flag, check_pair, check_scalar
from sslkernels.functional.distillation import Features, check_same_pairs, clip_and_distillation
from sslkernels.losses.similarity import ClipLoss


class DistillClipLoss(ClipLoss):
    """DistillClipLoss with open_clip's arguments, call and methods for subclasses, and with the exact gradient.

    ``forward`` gives the loss of `ClipLoss` and, beside it, the cross-entropy of the student's logits with the softmax
    of its teacher's (`sslkernels.functional.clip_distillation`), as a tuple or, with ``output_dict``, under their
    names. No matrix of logits is made, and one pass over the student's serves both. The teacher's features get a
    gradient if they require one, as in open_clip: run the teacher under ``torch.no_grad()``. They may have another
    width and dtype. `ClipLoss` says what ``world_size > 1`` does.

    If a subclass has its own `get_logits`, `get_ground_truth` or `dist_loss`, both losses are made of these.

    >>> import torch
    >>> from sslkernels.losses import DistillClipLoss
    >>> DistillClipLoss()(torch.eye(3), torch.eye(3), 1.0, torch.eye(3), torch.eye(3), 1.0)
    (tensor(0.5514), tensor(0.9753))
    """

    def dist_loss(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """The cross-entropy of logits ``(N, M)`` with the softmax of the teacher's, averaged over rows."""
        return -(teacher_logits.softmax(dim=1) * student_logits.log_softmax(dim=1)).sum(dim=1).mean(dim=0)

    def forward(  # type: ignore[override]
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: float | Tensor,
        output_dict: bool = False,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        name, gathered = "DistillClipLoss", self.world_size > 1
        check_pair(name, {"image_features": image_features, "text_features": text_features}, gathered)
        teacher_features = {"dist_image_features": dist_image_features, "dist_text_features": dist_text_features}
        check_pair(name, teacher_features, gathered)
        check_same_pairs(name, "dist_image_features", dist_image_features, "image_features", image_features)
        student: Features = image_features, text_features, check_scalar(name, "logit_scale", logit_scale)
        dist_logit_scale = check_scalar(name, "dist_logit_scale", dist_logit_scale)
        teacher: Features = dist_image_features, dist_text_features, dist_logit_scale
        output_dict = check_flag(name, "output_dict", output_dict)
        if self._overridden():
            ours, theirs = self.get_logits(*student), self.get_logits(*teacher)
            contrastive = self._of_logits(*ours)
            distilled = (self.dist_loss(theirs[0], ours[0]) + self.dist_loss(theirs[1], ours[1])) / 2
        else:
            contrastive, distilled = clip_and_distillation(name, student, teacher, "mean", self._group())
        return {"contrastive_loss": contrastive, "distill_loss": distilled} if output_dict else (contrastive, distilled)

    def _overridden(self) -> bool:
        return super()._overridden() or getattr(self.dist_loss, "__func__", None) is not DistillClipLoss.dist_loss
