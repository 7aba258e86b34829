# SPDX-License-Identifier: Apache-2.0
"""DIET: tell which training image it is, with one class for each of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number
from sslkernels.distributed import GroupLike
from sslkernels.functional import linear_cross_entropy
from sslkernels.functional.labelled import check_labels
from sslkernels.methods.method import Method
from sslkernels.ops.similarity import SIMILARITY


class DIET(Method):
    """Occam's Razor for Self Supervised Learning. Ibrahim, Klindt and Balestriero, 2024.

    A linear layer without a bias on the features of one view tells the image's row in the training data. There is no
    projector, teacher or pair: the loss is a cross-entropy with label smoothing over as many classes as images.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        samples: number of training samples, whose ``index`` runs from 0 to ``samples - 1``.
        label_smoothing: share of the target that all classes have alike.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import DIET
    >>> from sslkernels.models import resnet_small
    >>> method = DIET(resnet_small(), feature_dim=128, samples=1000)
    >>> method([torch.rand(16, 1, 8, 8)], index=torch.randint(1000, (16,)))["loss"].shape
    torch.Size([])
    """

    paper = "Ibrahim, Klindt and Balestriero 2024"
    arxiv = "2406.10743"
    seeds = (110,)
    family = SIMILARITY
    views = 1
    needs = ("index",)
    whole_views = True
    small = {"epochs": 60, "batch_size": 256, "lr": 1e-3}
    paper_options = {"epochs": 5000, "batch_size": 256, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        samples: int,
        label_smoothing: float = 0.8,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        samples = check_count("DIET", "samples", samples, feature_dim)
        self.label_smoothing = check_number("DIET", "label_smoothing", label_smoothing, least=0.0, most=1.0)
        self.head = nn.Linear(feature_dim, samples, bias=False)

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        rows = self.features(self.one_view(views))
        embeddings = rows, check_labels("DIET", "index", self.needed(given)["index"], rows)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, rows: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        smoothing, backend = self.label_smoothing, self.backend
        return linear_cross_entropy(rows, self.head.weight, index, label_smoothing=smoothing, backend=backend)
