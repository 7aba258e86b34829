# SPDX-License-Identifier: Apache-2.0
"""SimSiam: predict, from one view of an image, the same network's features of the other, which get no gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import negative_cosine_similarity
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import ROWS


class SimSiam(Method):
    """Exploring Simple Siamese Representation Learning. Chen and He, CVPR 2021.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        projection_dim: width of the projector's three layers; the predictor's hidden layer has a quarter of it.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    >>> import torch
    >>> from sslkernels.methods import SimSiam
    >>> from sslkernels.models import resnet_small
    >>> method = SimSiam(resnet_small(), feature_dim=128, projection_dim=64)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Chen and He 2021"
    arxiv = "2011.10566"
    family = ROWS
    small = {"epochs": 30, "batch_size": 32, "lr": 1e-3, "projection_dim": 256}
    paper_options = {"epochs": 100, "batch_size": 256, "lr": 1e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 2048,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths(type(self).__name__, feature_dim=feature_dim, projection_dim=projection_dim)
        self.projector = ProjectionHead(feature_dim, projection_dim, projection_dim, layers=3, norm_out=True)
        self.predictor = ProjectionHead(projection_dim, max(1, projection_dim // 4), projection_dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        embeddings = self.predictor(z0), self.predictor(z1), z0.detach(), z1.detach()
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, p0: Tensor, p1: Tensor, z0: Tensor, z1: Tensor) -> Tensor:  # type: ignore[override]
        first = negative_cosine_similarity(p0, z1, group=self.group, backend=self.backend)
        return (first + negative_cosine_similarity(p1, z0, group=self.group, backend=self.backend)) / 2
