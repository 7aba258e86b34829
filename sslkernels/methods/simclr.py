# SPDX-License-Identifier: Apache-2.0
"""SimCLR: make two views of an image agree, and let them differ from all other images of the batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_temperature, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import nt_xent
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.similarity import SIMILARITY


class SimCLR(Method):
    """A Simple Framework for Contrastive Learning of Visual Representations. Chen et al., ICML 2020.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        projection_dim: features that the loss compares.
        temperature: temperature of the loss; see `sslkernels.functional.nt_xent`.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import SimCLR
    >>> from sslkernels.models import resnet_small
    >>> method = SimCLR(resnet_small(), feature_dim=128)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Chen et al. 2020"
    arxiv = "2002.05709"
    family = SIMILARITY
    small = {"epochs": 120, "batch_size": 256, "lr": 3e-3, "projection_dim": 128, "temperature": 0.5}
    paper_options = {"epochs": 1000, "batch_size": 4096, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 128,
        temperature: float = 0.1,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim, name = self.check_feature_dim(feature_dim), type(self).__name__
        _, projection_dim = check_widths(name, feature_dim=feature_dim, projection_dim=projection_dim)
        self.temperature = check_temperature(name, temperature)
        self.projector = ProjectionHead(feature_dim, feature_dim, projection_dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        return {"loss": self.loss(z0, z1), "embeddings": (z0, z1)}

    def loss(self, z0: Tensor, z1: Tensor) -> Tensor:  # type: ignore[override]
        return nt_xent(z0, z1, temperature=self.temperature, group=self.group, backend=self.backend)
