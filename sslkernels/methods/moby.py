# SPDX-License-Identifier: Apache-2.0
"""MoBY: MoCo v2's queue of keys joined with BYOL's predictor and symmetry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_temperature, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import info_nce
from sslkernels.methods.method import Taught
from sslkernels.models import ProjectionHead
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import EMA, MemoryQueue


class MoBY(Taught):
    """Self-Supervised Learning with Swin Transformers. Xie et al., 2021.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        hidden_dim, projection_dim: widths of projector and predictor.
        queue_size: number of keys of each view that are remembered.
        temperature: temperature of the loss; see `sslkernels.functional.info_nce`.
        momentum: momentum of the teacher (the paper's target encoder) at the first step; it rises to 1 in half a
            cosine.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    In training mode `forward` keeps its keys, and `after_step` writes them into the queues of every rank.

    >>> import torch
    >>> from sslkernels.methods import MoBY
    >>> from sslkernels.models import resnet_small
    >>> method = MoBY(resnet_small(), feature_dim=128, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Xie et al. 2021"
    arxiv = "2105.04553"
    seeds = (6,)
    family = SIMILARITY
    small = {
        "epochs": 25, "batch_size": 128, "lr": 2e-3, "projection_dim": 128, "hidden_dim": 512, "queue_size": 1024,
        "temperature": 0.2, "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 300, "batch_size": 512, "lr": 1e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        queue_size: int = 4096,
        temperature: float = 0.2,
        momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "MoBY", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        queue_size = check_count("MoBY", "queue_size", queue_size, projection_dim)
        momentum = check_number("MoBY", "momentum", momentum, least=0, most=1)
        self.temperature = check_temperature("MoBY", temperature)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim)
        self.predictor = ProjectionHead(projection_dim, hidden_dim, projection_dim)
        self.teacher = EMA(self.online, momentum, schedule="cosine", backend=backend)
        self.queue0 = MemoryQueue(queue_size, projection_dim, backend=backend)
        self.queue1 = MemoryQueue(queue_size, projection_dim, backend=backend)
        self._newest: list[tuple[Tensor, Tensor]] = []

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        q0, q1 = (self.predictor(self.embed(view)) for view in self.two_views(views))
        k0, k1 = (F.normalize(self.teacher(view), dim=1) for view in views)
        if self.training:
            self._newest.append((k0, k1))
        return {"loss": self.loss(q0, q1, k0, k1), "embeddings": (q0, q1, k0, k1)}

    def loss(self, q0: Tensor, q1: Tensor, k0: Tensor, k1: Tensor) -> Tensor:  # type: ignore[override]
        return self._contrast(q0, k1, self.queue1) + self._contrast(q1, k0, self.queue0)

    def _contrast(self, query: Tensor, key: Tensor, queue: MemoryQueue) -> Tensor:
        queue.agree(self.group)
        return info_nce(
            query, key, negatives=queue.keys, temperature=self.temperature, group=self.group, backend=self.backend
        )

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            k0, k1 = (torch.cat(keys) for keys in zip(*self._newest, strict=True))
            self.queue0.enqueue(k0, group=self.group)
            self.queue1.enqueue(k1, group=self.group)
            self._newest.clear()
