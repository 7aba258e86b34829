# SPDX-License-Identifier: Apache-2.0
"""BYOL: predict, from one view of an image, the features that a slower copy of the network has of the other."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_module, check_number, check_pair, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import byol_loss
from sslkernels.methods.method import Taught
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import ROWS
from sslkernels.state import EMA


class BYOL(Taught):
    """Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning. Grill et al., NeurIPS 2020.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        hidden_dim, projection_dim: widths of projector and predictor.
        momentum: momentum of the teacher (the paper's target network) at the first step; it rises to 1 in half a
            cosine.
        predictor: maps rows ``(N, projection_dim)`` to rows of the same shape; by default the paper's perceptron. If it
            has a method ``after_step()``, that is called after each step.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    >>> import torch
    >>> from sslkernels.methods import BYOL
    >>> from sslkernels.models import resnet_small
    >>> method = BYOL(resnet_small(), feature_dim=128, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Grill et al. 2020"
    arxiv = "2006.07733"
    family = ROWS
    small = {
        "epochs": 25, "batch_size": 64, "lr": 1e-3, "projection_dim": 128, "hidden_dim": 512, "momentum": 0.95,
    }  # fmt: skip
    paper_options = {"epochs": 1000, "batch_size": 4096, "lr": 1e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        momentum: float = 0.996,
        predictor: nn.Module | None = None,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "BYOL", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        momentum = check_number("BYOL", "momentum", momentum, least=0, most=1)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim, bias=False)
        if predictor is None:
            predictor = ProjectionHead(projection_dim, hidden_dim, projection_dim, bias=False)
        self.predictor = check_module("BYOL", "predictor", predictor)
        self.teacher = EMA(self.online, momentum, schedule="cosine", backend=backend)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.embed(view) for view in self.two_views(views))
        p0, p1 = self.predictor(z0), self.predictor(z1)
        check_pair("BYOL", {"the predictor's rows": p0, "the projector's": z0})
        target0, target1 = (self.teacher(view) for view in views)
        return {"loss": self.loss(p0, p1, target0, target1), "embeddings": (p0, p1, target0, target1)}

    def loss(self, p0: Tensor, p1: Tensor, target0: Tensor, target1: Tensor) -> Tensor:  # type: ignore[override]
        first = byol_loss(p0, target1, group=self.group, backend=self.backend)
        return first + byol_loss(p1, target0, group=self.group, backend=self.backend)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if hasattr(self.predictor, "after_step"):
            self.predictor.after_step()
