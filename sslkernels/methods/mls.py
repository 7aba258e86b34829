# SPDX-License-Identifier: Apache-2.0
"""MLS: give an image several labels, the images in a dictionary that look most alike, and classify them one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_size, check_temperature, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import multi_label_bce, topk_similarity
from sslkernels.methods.method import Taught
from sslkernels.models import ProjectionHead
from sslkernels.ops.sigmoid import SIGMOID
from sslkernels.state import EMA, MemoryQueue


class MLS(Taught):
    """Multi-Label Self-Supervised Learning with Scene Images. Zhu et al., ICCV 2023.

    Two dictionaries are aligned: one holds the teacher's features of earlier images, the other its projections. An
    image's labels are the ``positives`` that are nearest to its features in the first, and its projection is classified
    against the second.

    The formula is after the abstract and a figure that others quote. Ours are the number of positives, the temperature,
    the sizes and the momentum, and that the loss is computed for the first view alone.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, by which labels are found.
        hidden_dim, projection_dim: widths of the projector.
        queue_size: number of rows in each dictionary.
        positives: labels of each image.
        temperature: temperature of the loss; see `sslkernels.functional.multi_label_bce`.
        momentum: momentum of the teacher.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    In training mode `forward` keeps the teacher's rows, and `after_step` writes them into the dictionaries of every
    rank.

    >>> import torch
    >>> from sslkernels.methods import MLS
    >>> from sslkernels.models import resnet_small
    >>> method = MLS(resnet_small(), feature_dim=128, hidden_dim=64, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Zhu et al. 2023"
    arxiv = "2308.03286"
    seeds = (26,)
    after_abstract = True
    family = SIGMOID
    small = {
        "epochs": 40, "batch_size": 128, "lr": 2e-3, "hidden_dim": 256, "projection_dim": 128, "queue_size": 1024,
        "positives": 8, "temperature": 0.2, "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 400, "batch_size": 512, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        queue_size: int = 8192,
        positives: int = 20,
        temperature: float = 0.2,
        momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "MLS", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        queue_size = check_count("MLS", "queue_size", queue_size, max(feature_dim, projection_dim))
        momentum = check_number("MLS", "momentum", momentum, least=0, most=1)
        self.positives = check_size("MLS", "positives", positives, most=queue_size)
        self.temperature = check_temperature("MLS", temperature)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim)
        self.teacher = EMA(self.online, momentum, backend=backend)
        self.looks = MemoryQueue(queue_size, feature_dim, backend=backend)
        self.queue = MemoryQueue(queue_size, projection_dim, backend=backend)
        self._newest: list[tuple[Tensor, Tensor]] = []

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        x0, x1 = self.two_views(views)
        looks = self.features(x0)
        query, looks = self.projector(looks), looks.detach()
        if self.training:
            self._newest.append(self.keys(x1))
        return {"loss": self.loss(query, looks), "embeddings": (query, looks)}

    def loss(self, query: Tensor, looks: Tensor) -> Tensor:  # type: ignore[override]
        self.looks.agree(self.group)
        self.queue.agree(self.group)
        _, positive = topk_similarity(looks, self.looks.keys.to(looks.dtype), self.positives, backend=self.backend)
        dictionary = self.queue.keys.to(query.dtype)
        return multi_label_bce(query, dictionary, positive, temperature=self.temperature, backend=self.backend)

    @torch.no_grad()
    def keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the teacher's unit rows: features ``(N, feature_dim)`` and projections ``(N, projection_dim)``."""
        backbone, projector = self.teacher.module
        looks = backbone(images)
        return F.normalize(looks, dim=1), F.normalize(projector(looks), dim=1)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            looks, keys = (torch.cat(rows) for rows in zip(*self._newest, strict=True))
            self.looks.enqueue(looks, group=self.group)
            self.queue.enqueue(keys, group=self.group)
            self._newest.clear()
