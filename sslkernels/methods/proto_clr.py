# SPDX-License-Identifier: Apache-2.0
"""ProtoCLR: find the image that a view is of by the distance of their features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.distributed import GroupLike, gather_rows
from sslkernels.functional import linear_cross_entropy
from sslkernels.functional.similarity import sharded
from sslkernels.methods.method import Method
from sslkernels.ops.dtypes import widened
from sslkernels.ops.similarity import SIMILARITY

# Views of an image that look for it. One more view is the prototype.
QUERIES = 3


class ProtoCLR(Method):
    """Self-Supervised Prototypical Transfer Learning for Few-Shot Classification. Medina, Devos and Grossglauser, 2020.

    Each of the N images of a batch is a class. The features of its first view are the class's prototype p, and those of
    the three others are queries x, whose class y is told as a prototypical network does:

    ``loss = |x − p_y|² + log Σ_k exp(−|x − p_k|²)``, the mean over all 3N queries

    No distance is stored: ``−|x − p|²`` is ``2⟨x, p⟩ − |p|²`` but for a number that all classes share, which makes it
    a `sslkernels.functional.linear_cross_entropy`. There is no projector, and features keep their length.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        backend: see `Method`.
        group: ranks whose images are classes too; see `Method`.

    >>> import torch
    >>> from sslkernels.methods import ProtoCLR
    >>> from sslkernels.models import resnet_small
    >>> method = ProtoCLR(resnet_small(), feature_dim=128)
    >>> method([torch.rand(16, 1, 8, 8) for _ in range(4)])["loss"].shape
    torch.Size([])
    """

    paper = "Medina, Devos and Grossglauser 2020"
    arxiv = "2006.11325"
    seeds = (62,)
    family = SIMILARITY
    views = 1 + QUERIES
    small = {"epochs": 20, "batch_size": 50, "lr": 2e-3}
    paper_options = {"epochs": 1000, "batch_size": 50, "lr": 1e-3}

    def __init__(
        self, backbone: nn.Module, *, feature_dim: int, backend: str | None = None, group: GroupLike = None
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        self.check_feature_dim(feature_dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        support, *queries = (self.features(view) for view in self.some_views(views, 1 + QUERIES))
        embeddings = support, torch.cat(queries)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, support: Tensor, queries: Tensor) -> Tensor:  # type: ignore[override]
        shard = sharded(self.group, "ProtoCLR", support, queries)
        own = torch.arange(shard.start, shard.start + len(support), device=support.device)
        with torch.autocast(support.device.type, enabled=False):  # a distance is a difference of large products
            prototypes, queries = gather_rows(widened(support), shard), widened(queries)
            # Distances do not depend on the origin. Products are small near the middle of the prototypes.
            middle = prototypes.detach().mean(0)
            prototypes, queries = prototypes - middle, queries - middle
            losses = linear_cross_entropy(
                queries,
                prototypes,
                own.repeat(QUERIES),
                scale=2.0,
                bias=-prototypes.square().sum(1),
                reduction="sum",
                backend=self.backend,
            )
        return losses * shard.ranks / (QUERIES * shard.total(len(support)))
