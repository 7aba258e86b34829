# SPDX-License-Identifier: Apache-2.0
"""NTXentLoss as in lightly, ClipLoss as in open_clip, and InfoNCELoss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import (
    check_flag,
    check_pair,
    check_rows,
    check_scalar,
    check_size,
    check_temperature,
)
from sslkernels.distributed import GroupLike, check_gathered, gather_rows, group_of, shard_of
from sslkernels.functional.similarity import clip_loss, info_nce, nt_xent
from sslkernels.losses.bank import Banked
from sslkernels.modules import Module
from sslkernels.ops.rows import unit_rows


class NTXentLoss(Banked):
    """NT-Xent with lightly's arguments: ``from sslkernels.losses import NTXentLoss`` is the whole change.

    Args:
        temperature: as in `sslkernels.functional.nt_xent`; lightly's default is 0.5.
        memory_bank_size: 0 for no bank, or ``(size, dim)``. With a bank, out0 are queries, out1 their keys, and the
            bank holds the negatives. An integer, as older versions take, creates the bank at the first call and warns.
        gather_distributed: take the rows of every rank as negatives. The keys of every rank then enter the bank, which
            is the same on all of them. Otherwise each rank has a bank of its own, inside DistributedDataParallel too.

    ``forward(out0, out1)`` with ``(N, D)`` each gives a 0-dim loss. The bank is read before it is written, and written
    only if ``out0.requires_grad``. No key is dropped at its end, and it is part of ``state_dict()``.

    >>> import torch
    >>> from sslkernels.losses import NTXentLoss
    >>> NTXentLoss(temperature=0.5)(torch.eye(4), torch.eye(4))
    tensor(0.5944)
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__(memory_bank_size)
        function = type(self).__name__
        temperature = check_scalar(function, "temperature", temperature)
        # lightly's names, for subclasses that have logits of their own.
        self.eps, self.cross_entropy = 1e-8, nn.CrossEntropyLoss()
        if abs(temperature) < self.eps:
            raise ValueError(f"{function}: temperature is {temperature}; pass a number of at least 1e-8 in size.")
        self.temperature = temperature
        self.gather_distributed = check_gathered(function, gather_distributed)

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        check_pair(type(self).__name__, {"out0": out0, "out1": out1}, self.gather_distributed)
        bank = self._bank_for(out0)
        group: GroupLike = "world" if self.gather_distributed else None
        if bank is None:
            return nt_xent(out0, out1, temperature=self.temperature, group=group)
        bank.agree(group)
        negatives = self._negatives(bank, out0)
        loss = info_nce(out0, out1, negatives=negatives, temperature=self.temperature, group=group)
        if out0.requires_grad:
            bank.enqueue(unit_rows(out1.detach()), group=group)
        return loss


class InfoNCELoss(Module):
    """`sslkernels.functional.info_nce` as a module: ``forward(query, key, negatives=None)``.

    With ``gather_distributed`` keys of all ranks are negatives, and with ``ring`` they travel and are not gathered.

    >>> import torch
    >>> from sslkernels.losses import InfoNCELoss
    >>> InfoNCELoss(temperature=1.0)(torch.eye(3), torch.eye(3))
    tensor(0.5514)
    """

    def __init__(
        self,
        temperature: float = 0.1,
        symmetric: bool = False,
        gather_distributed: bool = False,
        *,
        ring: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = check_temperature("InfoNCELoss", temperature)
        self.symmetric = check_flag("InfoNCELoss", "symmetric", symmetric)
        self.gather_distributed = check_gathered("InfoNCELoss", gather_distributed)
        self.ring = check_flag("InfoNCELoss", "ring", ring)

    def forward(self, query: Tensor, key: Tensor, negatives: Tensor | None = None) -> Tensor:
        check_pair("InfoNCELoss", {"query": query, "key": key}, self.gather_distributed)
        if negatives is not None:
            check_rows("InfoNCELoss", "negatives", negatives)
        return info_nce(
            query,
            key,
            negatives=negatives,
            temperature=self.temperature,
            symmetric=self.symmetric,
            group="world" if self.gather_distributed else None,
            ring=self.ring,
        )


class ClipLoss(Module):
    """ClipLoss with open_clip's arguments, call and methods for subclasses, and with the exact gradient.

    With ``world_size > 1`` the features of all ranks are gathered. Every parameter's gradient, averaged by DDP, is then
    that of the whole batch, whatever ``local_loss`` and ``gather_with_grad`` are; open_clip's default gives
    ``1 / world_size`` of it. ``local_loss`` decides which rows `get_logits` gives. Horovod is not supported. Where all
    features take too much memory, `sslkernels.functional.clip_loss` has a ``ring``.

    ``forward`` makes no matrix of logits. If a subclass has its own `get_logits` or `get_ground_truth`, the loss is the
    cross-entropy of these, as in open_clip.

    >>> import torch
    >>> from sslkernels.losses import ClipLoss
    >>> ClipLoss()(torch.eye(3), torch.eye(3), logit_scale=1.0)
    tensor(0.5514)
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if check_flag(name, "use_horovod", use_horovod):
            raise ValueError(
                f"{name}: use_horovod is True and only torch.distributed is served; pass use_horovod=False."
            )
        self.local_loss = check_flag(name, "local_loss", local_loss)
        self.gather_with_grad = check_flag(name, "gather_with_grad", gather_with_grad)
        self.cache_labels = check_flag(name, "cache_labels", cache_labels)
        self.world_size = check_size(name, "world_size", world_size)
        self.rank = check_size(name, "rank", rank, least=0)
        self.use_horovod = use_horovod
        self.prev_num_logits = 0
        self.labels: dict[torch.device, Tensor] = {}

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        """The column ``(num_logits,)`` of each row's pair among the logits; with ``cache_labels`` it is kept."""
        if self.prev_num_logits == num_logits and device in self.labels:
            return self.labels[device]
        labels = torch.arange(num_logits, device=device)
        if self.world_size > 1 and self.local_loss:
            labels = labels + num_logits * self.rank
        if self.cache_labels:
            self.labels[device] = labels
            self.prev_num_logits = num_logits
        return labels

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The scaled products of images with texts and of texts with images, ``(N, N)`` each.

        With ``world_size > 1`` the columns are the rows of all ranks; the rows too, unless ``local_loss``.
        """
        images, texts, name = image_features, text_features, type(self).__name__
        logit_scale = check_scalar(name, "logit_scale", logit_scale)
        shard = shard_of(self._group(), name, images, texts, logit_scale=logit_scale, local_loss=self.local_loss)
        if shard.ranks > 1:
            if self.local_loss and len(set(shard.sizes)) > 1:
                raise ValueError(
                    f"{name}: ranks hold {list(shard.sizes)} rows; with local_loss=True pass as many on each of them."
                )
            images, texts = gather_rows(images, shard), gather_rows(texts, shard)
            if not self.local_loss:
                image_features, text_features = images, texts
        per_image = logit_scale * image_features @ texts.T
        whole = shard.ranks > 1 and not self.local_loss
        per_text = per_image.T if whole else logit_scale * text_features @ images.T
        if logit_bias is not None:
            per_image, per_text = per_image + logit_bias, per_text + logit_bias
        return per_image, per_text

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: float | Tensor,
        logit_bias: float | Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        name = type(self).__name__
        check_pair(name, {"image_features": image_features, "text_features": text_features}, self.world_size > 1)
        logit_scale = check_scalar(name, "logit_scale", logit_scale)
        if logit_bias is not None:
            logit_bias = check_scalar(name, "logit_bias", logit_bias)
        output_dict = check_flag(name, "output_dict", output_dict)
        if self._overridden():
            loss = self._of_logits(*self.get_logits(image_features, text_features, logit_scale, logit_bias=logit_bias))
        else:
            loss = clip_loss(image_features, text_features, logit_scale, logit_bias, group=self._group())
        return {"contrastive_loss": loss} if output_dict else loss

    def _of_logits(self, per_image: Tensor, per_text: Tensor) -> Tensor:
        labels = self.get_ground_truth(per_image.device, per_image.shape[0])
        return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2

    def _overridden(self) -> bool:
        ours = {"get_logits": ClipLoss.get_logits, "get_ground_truth": ClipLoss.get_ground_truth}
        return any(getattr(getattr(self, name), "__func__", None) is not method for name, method in ours.items())

    def _group(self) -> GroupLike:
        return group_of(type(self).__name__, self.world_size)
