# SPDX-License-Identifier: Apache-2.0
"""NNCLR: predict, from one view of an image, another image that is near to its other view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_temperature, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import info_nce, topk_similarity
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import MemoryQueue


class NNCLR(Method):
    """With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning. Dwibedi et al., ICCV 2021.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        projector_dim: width of the projector's hidden layers.
        hidden_dim: width of the predictor's hidden layer.
        projection_dim: features that the loss compares.
        queue_size: number of rows among which neighbours are found.
        temperature: temperature of the loss; see `sslkernels.functional.info_nce`.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    In training mode `forward` keeps the first view's rows, and `after_step` writes them into the queue of every rank.

    >>> import torch
    >>> from sslkernels.methods import NNCLR
    >>> from sslkernels.models import resnet_small
    >>> method = NNCLR(resnet_small(), feature_dim=128, projector_dim=64, hidden_dim=64, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Dwibedi et al. 2021"
    arxiv = "2104.14548"
    family = SIMILARITY
    small = {
        "epochs": 20, "batch_size": 128, "lr": 2e-3, "projector_dim": 256, "hidden_dim": 256, "projection_dim": 128,
        "queue_size": 1024, "temperature": 0.2,
    }  # fmt: skip
    paper_options = {"epochs": 1000, "batch_size": 4096, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projector_dim: int = 2048,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        queue_size: int = 98304,
        temperature: float = 0.1,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projector_dim, hidden_dim, projection_dim = check_widths(
            "NNCLR",
            feature_dim=feature_dim,
            projector_dim=projector_dim,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
        )
        queue_size = check_count("NNCLR", "queue_size", queue_size, projection_dim)
        self.temperature = check_temperature("NNCLR", temperature)
        self.projector = ProjectionHead(feature_dim, projector_dim, projection_dim, layers=3, norm_out=True)
        self.predictor = ProjectionHead(projection_dim, hidden_dim, projection_dim)
        self.queue = MemoryQueue(queue_size, projection_dim, backend=backend)
        self._newest: list[Tensor] = []

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        p0, p1 = self.predictor(z0), self.predictor(z1)
        z0, z1 = (F.normalize(z.detach(), dim=1) for z in (z0, z1))
        if self.training:
            self._newest.append(z0)
        return {"loss": self.loss(p0, p1, z0, z1), "embeddings": (p0, p1, z0, z1)}

    def loss(self, p0: Tensor, p1: Tensor, z0: Tensor, z1: Tensor) -> Tensor:  # type: ignore[override]
        self.queue.agree(self.group)
        return (self._contrast(self.neighbours(z0), p1) + self._contrast(self.neighbours(z1), p0)) / 2

    def neighbours(self, z: Tensor) -> Tensor:
        """Take the row of the queue that is nearest to each row ``(N, projection_dim)``."""
        keys = self.queue.keys.to(z.dtype)
        return keys[topk_similarity(z, keys, backend=self.backend)[1][:, 0]]

    def _contrast(self, neighbour: Tensor, prediction: Tensor) -> Tensor:
        return info_nce(neighbour, prediction, temperature=self.temperature, group=self.group, backend=self.backend)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            self.queue.enqueue(torch.cat(self._newest), group=self.group)
            self._newest.clear()
