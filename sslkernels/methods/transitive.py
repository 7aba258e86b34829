# SPDX-License-Identifier: Apache-2.0
"""Transitive invariance: what holds of one thing in two poses, and of two things that look alike, holds of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_size, check_widths
from sslkernels.distributed import GroupLike, all_rows, gather_rows
from sslkernels.functional import gather_similarity, topk_similarity
from sslkernels.functional.similarity import sharded
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.sampled import SAMPLED


class Transitive(Method):
    """Transitive Invariance for Self-supervised Visual Representation Learning. Wang, He and Gupta, ICCV 2017.

    The views of a sample are a thing A and the same thing A' later, in another pose. Things whose features are nearest
    to those of A are its neighbours B. So A and A' are alike, and so are A and B; and then A and B' are, and A' and B'.
    For each of these pairs of an anchor a and a positive p, with the cosines s,

    ``loss = mean over n of max(0, s(a, n) - s(a, p) + margin)``

    The negatives n are the most similar things in the pose of p that are neither a's own nor its neighbours.

    This follows the paper after the abstract. Ours are that neighbours are found among the features of the batch, where
    the paper finds them beforehand with another network, how many of both there are, and that the four kinds of pairs
    weigh alike.

    Args:
        backbone: images to features ``(N, feature_dim)``, by which neighbours are found.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        projection_dim: features that the loss compares.
        neighbours: neighbours of each thing, fewer where the batch has not ``negatives`` others besides.
        negatives: negatives of each anchor.
        margin: by how much a positive's cosine should be the larger.
        backend, group: see `Method`. The things of all ranks are neighbours and negatives.

    >>> import torch
    >>> from sslkernels.methods import Transitive
    >>> from sslkernels.models import resnet_small
    >>> method = Transitive(resnet_small(), feature_dim=128)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Wang, He and Gupta 2017"
    arxiv = "1708.02901"
    seeds = (126,)
    after_abstract = True
    family = SAMPLED
    # With the 4 hardest negatives all rows became one from the first epoch on, where the loss is the margin.
    small = {"epochs": 6, "batch_size": 128, "lr": 2e-3, "projection_dim": 64, "negatives": 120}
    paper_options = {"epochs": 100, "batch_size": 100, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 1024,
        neighbours: int = 1,
        negatives: int = 4,
        margin: float = 0.5,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths("Transitive", feature_dim=feature_dim, projection_dim=projection_dim)
        self.neighbours = check_size("Transitive", "neighbours", neighbours)
        self.negatives = check_size("Transitive", "negatives", negatives)
        self.margin = check_number("Transitive", "margin", margin, least=0)
        self.projector = ProjectionHead(feature_dim, feature_dim, projection_dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        features, later = (self.features(view) for view in self.two_views(views))
        embeddings = features.detach(), self.projector(features), self.projector(later)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, features: Tensor, z0: Tensor, z1: Tensor) -> Tensor:  # type: ignore[override]
        settings = {"neighbours": self.neighbours, "negatives": self.negatives, "margin": self.margin}
        shard = sharded(self.group, "Transitive", z0, z1, features, **settings)
        z0, z1 = (unit_rows(z, backend=self.backend) for z in (z0, z1))
        now, later, pool = gather_rows(z0, shard), gather_rows(z1, shard), all_rows(features, shard)
        if len(pool) < 3:
            raise ValueError(f"Transitive: the views have {len(pool)} samples; pass 3 or more, to have a neighbour.")
        count = min(self.neighbours, max(1, len(pool) - 1 - self.negatives))
        own = shard.start + torch.arange(len(z0), device=z0.device)[:, None]
        _, near = topk_similarity(features, pool, count, metric="cosine", exclude=own, backend=self.backend)
        pairs = (z0, later, own), (z0, now, near), (z0, later, near), (z1, later, near)
        known = torch.cat([own, near], 1)
        losses = torch.stack([self._apart(*pair, known) for pair in pairs]).mean()
        return losses * (shard.ranks / shard.total(len(z0)))  # its mean over ranks is that of all things

    def _apart(self, anchor: Tensor, pool: Tensor, positive: Tensor, known: Tensor) -> Tensor:
        """Sum over anchors the mean loss of their positives ``(N, P)`` and negatives, rows of the pool."""
        count = min(self.negatives, len(pool) - known.shape[1])
        _, negative = topk_similarity(anchor.detach(), pool.detach(), count, exclude=known, backend=self.backend)
        near, far = (gather_similarity(anchor, pool, rows, backend=self.backend) for rows in (positive, negative))
        return (far[:, None] - near[..., None] + self.margin).clamp_min(0).mean((1, 2)).sum()
