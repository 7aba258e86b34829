# SPDX-License-Identifier: Apache-2.0
"""VICReg: two views of an image agree, every feature varies, and no two features vary together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_weights, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import vicreg
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.correlation import CORRELATION


class VICReg(Method):
    """VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning. Bardes et al., ICLR 2022.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        projection_dim: width of the expander's three layers, and number of features that the loss regularises; the
            paper has 8192.
        sim, var, cov: weights of invariance, variance and covariance; see `sslkernels.functional.vicreg`.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import VICReg
    >>> from sslkernels.models import resnet_small
    >>> method = VICReg(resnet_small(), feature_dim=128, projection_dim=64)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Bardes et al. 2022"
    arxiv = "2105.04906"
    seeds = (114,)
    family = CORRELATION
    small = {
        "epochs": 80, "batch_size": 256, "lr": 3e-3, "projection_dim": 512, "sim": 25.0, "var": 25.0, "cov": 1.0,
    }  # fmt: skip
    paper_options = {"epochs": 1000, "batch_size": 2048, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 8192,
        sim: float = 25.0,
        var: float = 25.0,
        cov: float = 1.0,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths("VICReg", feature_dim=feature_dim, projection_dim=projection_dim)
        self.sim, self.var, self.cov = check_weights("VICReg", sim=sim, var=var, cov=cov)
        self.expander = ProjectionHead(feature_dim, projection_dim, projection_dim, layers=3, bias=False)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.expander(self.features(view)) for view in self.two_views(views))
        return {"loss": self.loss(z0, z1), "embeddings": (z0, z1)}

    def loss(self, z0: Tensor, z1: Tensor) -> Tensor:  # type: ignore[override]
        return vicreg(z0, z1, sim=self.sim, var=self.var, cov=self.cov, group=self.group, backend=self.backend)
