# SPDX-License-Identifier: Apache-2.0
"""DenseCL: each place of an image finds its own place in another view, among the images that a queue remembers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_count, check_kind, check_number
from sslkernels.distributed import GroupLike
from sslkernels.functional import gather_tokens, info_nce
from sslkernels.methods.moco_v2 import MoCoV2
from sslkernels.models import ResNet
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import EMA, MemoryQueue


class DenseCL(MoCoV2):
    """Dense Contrastive Learning for Self-Supervised Visual Pre-Training. Wang et al., CVPR 2021.

    ``(1 - dense) * L(query, key, queue) + dense * L(q_s, k_match(s), dense queue)``, with MoCo v2's loss L. The second
    is the mean over all places s of the images: q and k are the dense projections of the features of each place in the
    two views, and ``match(s)`` is the place of the second view whose features (the backbone's, before any projection)
    have the largest cosine with those of s. The dense queue remembers the mean of each image's dense keys.

    Args:
        backbone: a `sslkernels.models.ResNet`, which gives the features of each place too.
        feature_dim: features of the backbone, and width of the hidden layer of both projections.
        projection_dim: features that the loss compares.
        queue_size, dense_queue_size: number of keys that each queue remembers.
        dense: weight of the places, from 0 to 1.
        temperature, momentum: as in `MoCoV2`.
        backend, group: see `Method`. With several ranks, images are shuffled among them as in `MoCoV2`.

    >>> import torch
    >>> from sslkernels.methods import DenseCL
    >>> from sslkernels.models import resnet_small
    >>> method = DenseCL(resnet_small(), feature_dim=128, queue_size=256, dense_queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Wang et al. 2021"
    arxiv = "2011.09157"
    seeds = (107,)
    family = SIMILARITY
    small = {**MoCoV2.small, "epochs": 25, "dense_queue_size": 1024}
    paper_options = {"epochs": 200, "batch_size": 256, "lr": 1e-3}
    backbone: ResNet

    def __init__(
        self,
        backbone: ResNet,
        *,
        feature_dim: int,
        projection_dim: int = 128,
        queue_size: int = 65536,
        dense_queue_size: int = 65536,
        dense: float = 0.5,
        temperature: float = 0.2,
        momentum: float = 0.999,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        expected = "a sslkernels.models.ResNet, which gives the features of each place"
        super().__init__(
            check_kind("DenseCL", "backbone", backbone, ResNet, expected),
            feature_dim=feature_dim,
            projection_dim=projection_dim,
            queue_size=queue_size,
            temperature=temperature,
            momentum=momentum,
            backend=backend,
            group=group,
        )
        dense_queue_size = check_count("DenseCL", "dense_queue_size", dense_queue_size, projection_dim)
        self.dense = check_number("DenseCL", "dense", dense, least=0, most=1)
        self.dense_projector = self.head(feature_dim, projection_dim)
        self.dense_teacher = EMA(self.dense_projector, momentum, backend=backend)
        self.dense_queue = MemoryQueue(dense_queue_size, projection_dim, backend=backend)
        self._pooled: list[Tensor] = []

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        x0, x1 = self.two_views(views)
        teacher_backbone, teacher_projector = self.teacher.module
        grid0, grid1 = self.backbone.feature_grid(x0), self.shuffled(teacher_backbone.feature_grid, x1)
        places0, places1 = (grid.flatten(2).mT for grid in (grid0, grid1))
        query = self.projector(places0.mean(1))
        with torch.no_grad():
            key = F.normalize(teacher_projector(places1.mean(1)), dim=1)
            projected = self.dense_teacher(places1)
            keys = F.normalize(projected, dim=2)
            matched = gather_tokens(keys, self.match(places0, places1), backend=self.backend)
        if self.training:
            self._newest.append(key)
            self._pooled.append(F.normalize(projected.mean(1), dim=1))
        embeddings = query, key, self.dense_projector(places0).flatten(0, 1), matched.flatten(0, 1)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    @staticmethod
    @torch.no_grad()
    def match(places0: Tensor, places1: Tensor) -> Tensor:
        """Find for each place of ``(N, P, C)`` that of ``(N, Q, C)`` with the largest cosine: int64 ``(N, P)``.

        A grid has 7 x 7 places or less, which a batched product compares faster than `topk_similarity` does.
        """
        return torch.bmm(F.normalize(places0, dim=2), F.normalize(places1, dim=2).mT).argmax(2)

    def loss(self, query: Tensor, key: Tensor, dense_query: Tensor, dense_key: Tensor) -> Tensor:  # type: ignore[override]
        self.dense_queue.agree(self.group)
        places = info_nce(
            dense_query,
            dense_key,
            negatives=self.dense_queue.keys,
            temperature=self.temperature,
            group=self.group,
            backend=self.backend,
        )
        return (1 - self.dense) * super().loss(query, key) + self.dense * places

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.dense_teacher.update(self.dense_projector, step, total_steps)
        if self._pooled:
            self.dense_queue.enqueue(torch.cat(self._pooled), group=self.group)
            self._pooled.clear()
