# SPDX-License-Identifier: Apache-2.0
"""MoCo v3: from each view of an image, find the other view's key among those of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_number, check_temperature, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import info_nce
from sslkernels.methods.method import Taught
from sslkernels.models import ProjectionHead
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import EMA


class MoCoV3(Taught):
    """An Empirical Study of Training Self-Supervised Vision Transformers. Chen, Xie and He, ICCV 2021.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        hidden_dim, projection_dim: widths of the projector's three layers and the predictor's two.
        temperature: temperature of the loss; see `sslkernels.functional.info_nce`. The paper has 0.2 for ViT, the
            official code 1.0 for ResNet-50.
        momentum: momentum of the teacher (the paper's momentum encoder) at the first step; it rises to 1 in half a
            cosine.
        backend, group: see `Method`. Keys of other ranks are negatives. Like all keys they get no gradient.

    >>> import torch
    >>> from sslkernels.methods import MoCoV3
    >>> from sslkernels.models import resnet_small
    >>> method = MoCoV3(resnet_small(), feature_dim=128, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Chen, Xie and He 2021"
    arxiv = "2104.02057"
    family = SIMILARITY
    small = {
        "epochs": 30, "batch_size": 128, "lr": 2e-3, "projection_dim": 128, "hidden_dim": 512, "temperature": 0.2,
        "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 300, "batch_size": 4096, "lr": 2.4e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim, name = self.check_feature_dim(feature_dim), type(self).__name__
        _, hidden_dim, projection_dim = check_widths(
            name, feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        momentum = check_number(name, "momentum", momentum, least=0, most=1)
        self.temperature = check_temperature(name, temperature)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim, layers=3, norm_out=True)
        self.predictor = ProjectionHead(projection_dim, hidden_dim, projection_dim, norm_out=True)
        self.teacher = EMA(self.online, momentum, schedule="cosine", backend=backend)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        embeddings = self.queries_and_keys(views)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def queries_and_keys(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q0, q1 = (self.predictor(self.embed(view)) for view in self.two_views(views))
        k0, k1 = (self.teacher(view) for view in views)
        return q0, q1, k0, k1

    def loss(self, q0: Tensor, q1: Tensor, k0: Tensor, k1: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * self.temperature * (self._contrast(q0, k1) + self._contrast(q1, k0))

    def _contrast(self, query: Tensor, key: Tensor) -> Tensor:
        return info_nce(query, key, temperature=self.temperature, group=self.group, backend=self.backend)
