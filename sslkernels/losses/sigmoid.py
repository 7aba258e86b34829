# SPDX-License-Identifier: Apache-2.0
"""SigLipLoss as in open_clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_choice, check_flag, check_pair, check_scalar, check_size
from sslkernels.distributed import gather_rows, group_of, shard_of
from sslkernels.functional.sigmoid import siglip_loss
from sslkernels.modules import Module

EXCHANGES = ("bidir", "shift", "reduce", "gather")


class SigLipLoss(Module):
    """SigLipLoss with open_clip's arguments, call and methods for subclasses.

    With ``world_size > 1`` the texts of all ranks travel round one ring, both ways at once, whatever ``dist_impl`` is:
    no rank holds more than a few blocks of them, and no matrix of logits. `sslkernels.functional.siglip_loss` says what
    is sent. ``chunk_size`` and ``cache_labels`` are accepted without effect: there is no matrix to cut into chunks, and
    no label to cache.

    If a subclass has its own `get_logits` or `get_ground_truth`, the loss is made of these, as in open_clip, from
    gathered texts.

    >>> import torch
    >>> from sslkernels.losses import SigLipLoss
    >>> SigLipLoss()(torch.eye(3), torch.eye(3), logit_scale=10.0, logit_bias=-10.0)
    tensor(0.6932)
    """

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        chunk_size: int = 0,
    ) -> None:
        super().__init__()
        self.cache_labels = check_flag("SigLipLoss", "cache_labels", cache_labels)
        self.rank = check_size("SigLipLoss", "rank", rank, least=0)
        self.world_size = check_size("SigLipLoss", "world_size", world_size)
        self.dist_impl = check_choice("SigLipLoss", "dist_impl", "bidir" if dist_impl is None else dist_impl, EXCHANGES)
        self.chunk_size = check_size("SigLipLoss", "chunk_size", chunk_size, least=0)
        self.prev_num_logits = 0
        self.labels: dict[torch.device, Tensor] = {}

    def get_ground_truth(
        self, device: torch.device, dtype: torch.dtype, num_logits: int, negative_only: bool = False
    ) -> Tensor:
        """The labels ``(num_logits, num_logits)``: 1 on the diagonal, unless ``negative_only``, and -1 elsewhere."""
        labels = -torch.ones(num_logits, num_logits, device=device, dtype=dtype)
        return labels if negative_only else labels + 2 * torch.eye(num_logits, device=device, dtype=dtype)

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
    ) -> Tensor:
        """The scaled products of images with texts, ``(N, N)``, and the bias."""
        logits = logit_scale * image_features @ text_features.T
        return logits if logit_bias is None else logits + logit_bias

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        features = {"image_features": image_features, "text_features": text_features}
        check_pair("SigLipLoss", features, self.world_size > 1)
        logit_scale = check_scalar("SigLipLoss", "logit_scale", logit_scale)
        if logit_bias is not None:
            logit_bias = check_scalar("SigLipLoss", "logit_bias", logit_bias)
        output_dict = check_flag("SigLipLoss", "output_dict", output_dict)
        group = group_of("SigLipLoss", self.world_size)
        if self._overridden():
            loss = self._of_logits(image_features, text_features, logit_scale, logit_bias)
        else:
            loss = siglip_loss(image_features, text_features, logit_scale, logit_bias, group=group)
        return {"contrastive_loss": loss} if output_dict else loss

    def _of_logits(
        self, images: Tensor, texts: Tensor, logit_scale: float | Tensor, logit_bias: float | Tensor | None
    ) -> Tensor:
        group = group_of("SigLipLoss", self.world_size)
        shard = shard_of(group, "SigLipLoss", images, texts, logit_scale=logit_scale)
        if len(set(shard.sizes)) > 1:
            raise ValueError(
                f"SigLipLoss: ranks hold {list(shard.sizes)} rows; with logits of a subclass pass as many on each."
            )
        total = images.new_zeros(())
        for rank, block in enumerate(gather_rows(texts, shard).split(len(images))):
            logits = self.get_logits(images, block, logit_scale, logit_bias)
            labels = self.get_ground_truth(images.device, images.dtype, len(images), negative_only=rank != shard.rank)
            total = total - F.logsigmoid(labels * logits).sum() / len(images)
        return total

    def _overridden(self) -> bool:
        ours = {"get_logits": SigLipLoss.get_logits, "get_ground_truth": SigLipLoss.get_ground_truth}
        return any(getattr(getattr(self, name), "__func__", None) is not method for name, method in ours.items())
