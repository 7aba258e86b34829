# SPDX-License-Identifier: Apache-2.0
"""TriBYOL: three views, one network, and two slower copies of it that it predicts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_number, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import byol_loss
from sslkernels.methods.method import Taught
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import ROWS
from sslkernels.state import EMA


class TriBYOL(Taught):
    """TriBYOL: Triplet BYOL for Self-Supervised Representation Learning. Li et al., ICASSP 2022.

    With ``d = 2 - 2 cos``, predictions p and the two targets t and u, of which the student's rows of views 1, 2, 3 are
    predicted: ``½ [d(p₁, t₂) + d(p₂, t₁)] + ½ [d(p₁, u₃) + d(p₃, u₁)]``. Re-implementations differ: here both targets
    move after every step, and the second starts from random weights of its own, since two copies that move alike would
    be one.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        hidden_dim, projection_dim: widths of projector and predictor.
        momentum: momentum of both targets at the first step; it rises to 1 in half a cosine.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import TriBYOL
    >>> from sslkernels.models import resnet_small
    >>> method = TriBYOL(resnet_small(), feature_dim=128, hidden_dim=64, projection_dim=32)
    >>> method([torch.rand(16, 1, 8, 8) for _ in range(3)])["loss"].shape
    torch.Size([])
    """

    paper = "Li et al. 2022"
    arxiv = "2206.03012"
    seeds = (83,)
    family = ROWS
    views = 3
    small = {
        "epochs": 25, "batch_size": 64, "lr": 1e-3, "projection_dim": 128, "hidden_dim": 512, "momentum": 0.95,
    }  # fmt: skip
    paper_options = {"epochs": 80, "batch_size": 256, "lr": 1e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        momentum: float = 0.996,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "TriBYOL", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        momentum = check_number("TriBYOL", "momentum", momentum, least=0, most=1)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim, bias=False)
        self.predictor = ProjectionHead(projection_dim, hidden_dim, projection_dim, bias=False)
        self.teacher = EMA(self.online, momentum, schedule="cosine", backend=backend)
        self.second = EMA(self.online, momentum, schedule="cosine", backend=backend)
        for module in self.second.module.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.some_views(views, 3)
        p0, p1, p2 = (self.predictor(self.embed(view)) for view in views)
        targets = self.teacher(views[0]), self.teacher(views[1]), self.second(views[0]), self.second(views[2])
        embeddings = p0, p1, p2, *targets
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, p0: Tensor, p1: Tensor, p2: Tensor, t0: Tensor, t1: Tensor, u0: Tensor, u2: Tensor) -> Tensor:  # type: ignore[override]
        pairs = (p0, t1), (p1, t0), (p0, u2), (p2, u0)
        first, *others = (byol_loss(p, target, group=self.group, backend=self.backend) for p, target in pairs)
        return sum(others, first) / 2

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.second.update(self.online, step, total_steps)
