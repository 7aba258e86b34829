# SPDX-License-Identifier: Apache-2.0
"""GroCo: sorted by similarity, an image's other views come behind all other images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_size, check_widths
from sslkernels.distributed import GroupLike, all_rows, shard_of
from sslkernels.functional import gather_similarity, group_ordering, topk_similarity
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.sampled import SAMPLED


class GroCo(Method):
    """Learning by Sorting: Self-Supervised Learning with Group Ordering Constraints. Shvetsova et al., ICCV 2023.

    Each view of an image is an anchor. Its positives are the image's other views, its negatives the most similar other
    images of the same view. The loss is the mean over anchors of `sslkernels.functional.group_ordering` of their
    cosines. Only the anchor has a gradient.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        projection_dim: width of the projector's three layers.
        negatives: most similar images that are sorted with the positives; all others where there are fewer.
        steepness: how far apart similarities must lie to be surely in order.
        backend, group: see `Method`. The images of all ranks are negatives.

    `forward` takes any number of views from two up.

    >>> import torch
    >>> from sslkernels.methods import GroCo
    >>> from sslkernels.models import resnet_small
    >>> method = GroCo(resnet_small(), feature_dim=128, projection_dim=64)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Shvetsova et al. 2023"
    arxiv = "2301.02009"
    seeds = (111,)
    family = SAMPLED
    views = None
    small = {"epochs": 40, "batch_size": 256, "lr": 3e-3, "projection_dim": 256}
    paper_options = {"epochs": 100, "batch_size": 1024, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 2048,
        negatives: int = 10,
        steepness: float = 1.0,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths("GroCo", feature_dim=feature_dim, projection_dim=projection_dim)
        self.negatives = check_size("GroCo", "negatives", negatives)
        self.steepness = check_number("GroCo", "steepness", steepness, above=0)
        self.projector = ProjectionHead(feature_dim, projection_dim, projection_dim, layers=3)

    def check_views(self, views: Sequence[Tensor]) -> None:
        self.any_views(views)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        self.check_views(views)
        embeddings = tuple(self.projector(self.features(view)) for view in views)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, *embeddings: Tensor) -> Tensor:
        rows = [unit_rows(z, backend=self.backend) for z in embeddings]
        return torch.stack([self._anchored(rows, place) for place in range(len(rows))]).mean()

    def _anchored(self, rows: Sequence[Tensor], place: int) -> Tensor:
        anchor = rows[place]
        shard = shard_of(self.group, "GroCo", anchor, negatives=self.negatives, steepness=self.steepness)
        pool = all_rows(anchor, shard)
        if len(pool) < 2:
            raise ValueError("GroCo: views have one sample; pass two or more, as negatives of each other.")
        own = shard.start + torch.arange(len(anchor), device=anchor.device)
        count = min(self.negatives, len(pool) - 1)
        _, nearest = topk_similarity(anchor.detach(), pool, count, exclude=own, backend=self.backend)
        similarities = [gather_similarity(anchor, pool, nearest, backend=self.backend)]
        others = [row.detach() for other, row in enumerate(rows) if other != place]
        similarities += [row_dot(anchor, row, backend=self.backend)[:, None] for row in others]
        losses = group_ordering(torch.cat(similarities, 1), len(others), steepness=self.steepness, reduction="sum")
        return losses * (shard.ranks / shard.total(len(anchor)))  # its mean over ranks is that of all anchors
