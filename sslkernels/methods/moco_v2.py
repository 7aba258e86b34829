# SPDX-License-Identifier: Apache-2.0
"""MoCo v2: find an image's own key among those of thousands of other images, which a queue remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_temperature, check_widths
from sslkernels.distributed import GroupLike, shard_of, shuffle_rows, unshuffle_rows
from sslkernels.functional import info_nce
from sslkernels.methods.method import Taught
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import EMA, MemoryQueue


class MoCoV2(Taught):
    """Improved Baselines with Momentum Contrastive Learning. Chen et al., 2020.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        projection_dim: features that the loss compares.
        queue_size: number of keys that are remembered.
        temperature: temperature of the loss; see `sslkernels.functional.info_nce`.
        momentum: momentum of the teacher (the paper's key encoder).
        backend, group: see `Method`. With several ranks, images are shuffled among them before the teacher sees them.
            Otherwise query and key would share a batch, and BatchNorm's statistics would give the pair away (He et al.
            2020, section 3.3).

    In training mode `forward` keeps its keys, and `after_step` writes them into the queue of every rank.

    >>> import torch
    >>> from sslkernels.methods import MoCoV2
    >>> from sslkernels.models import resnet_small
    >>> method = MoCoV2(resnet_small(), feature_dim=128, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Chen et al. 2020"
    arxiv = "2003.04297"
    family = SIMILARITY
    small = {
        "epochs": 40, "batch_size": 128, "lr": 2e-3, "projection_dim": 128, "queue_size": 1024, "temperature": 0.2,
        "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 800, "batch_size": 256, "lr": 1e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 128,
        queue_size: int = 65536,
        temperature: float = 0.2,
        momentum: float = 0.999,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = type(self).__name__, self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths(name, feature_dim=feature_dim, projection_dim=projection_dim)
        queue_size = check_count(name, "queue_size", queue_size, projection_dim)
        momentum = check_number(name, "momentum", momentum, least=0, most=1)
        self.temperature = check_temperature(name, temperature)
        self.projector = self.head(feature_dim, projection_dim)
        self.teacher = EMA(self.online, momentum, backend=backend)
        self.queue = MemoryQueue(queue_size, projection_dim, backend=backend)
        self._newest: list[Tensor] = []

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        embeddings = self.query_and_key(views)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def query_and_key(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the student's rows of one view and the teacher's of the other, which `after_step` enqueues."""
        x0, x1 = self.two_views(views)
        query, key = self.embed(x0), self.keys(x1)
        if self.training:
            self._newest.append(key)
        return query, key

    def loss(self, query: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        self.queue.agree(self.group)
        return info_nce(
            query,
            key,
            negatives=self.queue.keys,
            temperature=self.temperature,
            group=self.group,
            backend=self.backend,
        )

    @staticmethod
    def head(feature_dim: int, projection_dim: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(inplace=True), nn.Linear(feature_dim, projection_dim)
        )

    def keys(self, images: Tensor) -> Tensor:
        """Compute the teacher's unit rows ``(N, projection_dim)``, on batches that are shuffled among the ranks."""
        return F.normalize(self.shuffled(self.teacher, images), dim=1)

    @torch.no_grad()
    def shuffled(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Compute ``network(images)`` on batches that are shuffled among the ranks, and bring each row back."""
        shard = shard_of(self.group, type(self).__name__, images.flatten(1))
        if shard.ranks == 1:
            return network(images)
        rows, order = shuffle_rows(images, shard)
        return unshuffle_rows(network(rows), order, shard)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            self.queue.enqueue(torch.cat(self._newest), group=self.group)
            self._newest.clear()
