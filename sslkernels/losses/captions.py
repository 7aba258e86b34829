# SPDX-License-Identifier: Apache-2.0
"""CoCaLoss as in open_clip."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import LARGEST_WHOLE, check_flag, check_rows, check_scalar, check_size, check_tensor, shape_of
from sslkernels.distributed import shard_of, summed
from sslkernels.losses.similarity import ClipLoss
from sslkernels.ops.dtypes import wide


class CoCaLoss(ClipLoss):
    """CoCaLoss with open_clip's arguments and call: that of `ClipLoss`, and the cross-entropy of captions.

    ``forward`` takes the captions' logits ``(N, L, V)`` and labels, int64 ``(N, L)``, of which those that are
    ``pad_id`` do not count. It gives ``clip_loss_weight`` times the contrastive loss, 0 without computing it if the
    weight is 0, and ``caption_loss_weight`` times the other, as a tuple or, with ``output_dict``, under their names.

    With ``world_size > 1`` the caption loss of a rank is weighted by its tokens. The mean over ranks, and the gradient
    that DDP averages, is then that of all tokens; open_clip averages each rank's first, so that a token counts the more
    the fewer its rank has. `ClipLoss` says what ``world_size > 1`` does to the contrastive loss.

    >>> import torch
    >>> from sslkernels.losses import CoCaLoss
    >>> loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
    >>> loss(torch.eye(3), torch.eye(3), torch.zeros(3, 4, 8), torch.ones(3, 4, dtype=torch.int64), 1.0)
    (tensor(0.5514), tensor(4.1589))
    """

    def __init__(
        self,
        caption_loss_weight: float,
        clip_loss_weight: float,
        pad_id: int = 0,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__(local_loss, gather_with_grad, cache_labels, rank, world_size, use_horovod)
        self.clip_loss_weight = check_scalar("CoCaLoss", "clip_loss_weight", clip_loss_weight)
        self.caption_loss_weight = check_scalar("CoCaLoss", "caption_loss_weight", caption_loss_weight)
        pad_id = check_size("CoCaLoss", "pad_id", pad_id, least=-LARGEST_WHOLE)
        self.caption_loss = nn.CrossEntropyLoss(ignore_index=pad_id)

    def forward(  # type: ignore[override]
        self,
        image_features: Tensor,
        text_features: Tensor,
        logits: Tensor,
        labels: Tensor,
        logit_scale: float | Tensor,
        output_dict: bool = False,
    ) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        check_rows("CoCaLoss", "logits", logits, "(N, L, V), V scores of each token", dims=3)
        check_tensor("CoCaLoss", "labels", labels, "(N, L)")
        if labels.shape != logits.shape[:2] or labels.dtype != torch.int64:
            raise ValueError(
                f"CoCaLoss: labels has shape {shape_of(labels)} and dtype {labels.dtype}, and logits has shape "
                f"{shape_of(logits)}; pass int64 labels of shape {shape_of(logits[..., 0])}."
            )
        if labels.device.type == "cpu" and not torch.compiler.is_compiling():
            words = labels[labels != self.caption_loss.ignore_index]
            low, high = (int(bound) for bound in words.aminmax()) if len(words) else (0, 0)
            if low < 0 or high >= max(logits.shape[2], 1):
                raise IndexError(
                    f"CoCaLoss: labels holds {low if low < 0 else high}; words run from 0 to {logits.shape[2] - 1}, "
                    f"and pad_id is {self.caption_loss.ignore_index}."
                )
        output_dict = check_flag("CoCaLoss", "output_dict", output_dict)
        if self.clip_loss_weight:
            contrastive = super().forward(image_features, text_features, logit_scale)
            assert isinstance(contrastive, Tensor)
            contrastive = self.clip_loss_weight * contrastive
        else:
            contrastive = torch.tensor(0, device=logits.device)
        captions = self.caption_loss_weight * self._of_captions(logits, labels)
        return {"contrastive_loss": contrastive, "caption_loss": captions} if output_dict else (contrastive, captions)

    def _of_captions(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.caption_loss(logits.permute(0, 2, 1), labels)
        shard = shard_of(self._group(), "CoCaLoss", logits.flatten(0, 1), pad_id=self.caption_loss.ignore_index)
        if shard.ranks == 1:
            return loss
        tokens = (labels != self.caption_loss.ignore_index).sum().to(wide(loss.dtype))
        share = tokens * shard.ranks / summed(tokens, shard)
        return torch.where(tokens > 0, loss, 0) * share.to(loss.dtype)  # the mean of no token is NaN
