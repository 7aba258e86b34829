# SPDX-License-Identifier: Apache-2.0
"""FeatEx: tell the class of a sound, and whether the halves of its features are of two sounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import came, check_count, check_number, is_whole
from sslkernels.distributed import GroupLike
from sslkernels.functional import linear_cross_entropy, topk_similarity
from sslkernels.functional.labelled import check_labels
from sslkernels.methods.method import Method
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.terms.task import COUNTED

# Each class has the sounds themselves, and those that lend their first or their second half.
KINDS = 3


class FeatEx(Method):
    """Self-Supervised Learning for Anomalous Sound Detection. Wilkinghoff, ICASSP 2024: its feature exchange.

    A backbone of two branches gives features ``(e, e')``, one half of each. With a chance of ``swap`` a sample's second
    half is that of the sample at the other end of the batch. A classifier of ``3 C`` classes then has the target
    ``(y, 0, 0)`` for a sample as it was and ``(0, y / 2, y_other / 2)`` for one of two, so that it must learn how the
    halves belong together. Its loss stands beside that of C classes on features as they were, whose centres are random
    and stay. Both are sub-cluster AdaCos: a softmax of cosines with ``subcenters`` centres of each class, which is as
    probable as all of them together (see `sslkernels.functional.linear_cross_entropy`), times ``√2 log(all centres -
    1)``, at least 1.

    The paper's third classifier, of statistics that are exchanged, and its mixup are left out. Its scale goes on to
    adapt itself; here it stays.

    Args:
        backbone: sounds to features ``(N, feature_dim)``, the two branches' beside each other.
        feature_dim: features of the backbone, an even number.
        classes: number of classes, at least 2; labels are int64, and samples with -1 do not count.
        subcenters: centres of each class.
        swap: chance of an exchange.
        backend, group: see `Method`. Halves are exchanged on a rank.

    >>> import torch
    >>> from sslkernels.methods import FeatEx
    >>> from sslkernels.models import SpectrogramNet
    >>> method = FeatEx(SpectrogramNet((8, 16)), feature_dim=32, classes=4, subcenters=2)
    >>> method([torch.rand(16, 1, 16, 24)], label=torch.arange(16) % 4)["loss"].shape
    torch.Size([])
    """

    paper = "Wilkinghoff 2024"
    arxiv = "2312.09578"
    seeds = (23,)
    family = SIMILARITY
    views = 1
    needs = ("label",)
    whole_views = True
    small = {"epochs": 20, "batch_size": 64, "lr": 1e-3, "subcenters": 4}
    paper_options = {"epochs": 10, "batch_size": 64, "lr": 1e-3}

    fixed: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        classes: int,
        subcenters: int = 16,
        swap: float = 0.5,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = "FeatEx", self.check_feature_dim(feature_dim)
        if feature_dim % 2:
            raise ValueError(f"{name}: feature_dim is {feature_dim}; pass an even one, half of it of each branch.")
        if not is_whole(classes, 2):
            raise ValueError(f"{name}: classes is {came(classes)}; pass at least 2, of data with labels.")
        self.classes = check_count(name, "classes", classes, feature_dim)
        self.subcenters = check_count(name, "subcenters", subcenters, KINDS * feature_dim * classes)
        self.swap = check_number(name, "swap", swap, least=0, most=1)
        centers = self.classes * self.subcenters
        self.register_buffer("fixed", F.normalize(torch.randn(centers, feature_dim), dim=1))
        self.centers = nn.Parameter(torch.empty(KINDS * centers, feature_dim))
        nn.init.xavier_uniform_(self.centers)

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        rows = self.features(self.one_view(views))
        label = check_labels("FeatEx", "label", self.needed(given)["label"], rows)
        embeddings = rows, label, torch.rand(len(rows), device=rows.device) < self.swap
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, rows: Tensor, label: Tensor, swapped: Tensor) -> Tensor:  # type: ignore[override]
        first, second = rows.chunk(2, 1)
        mixed = torch.cat([first, torch.where(swapped[:, None], second.flip(0), second)], 1)
        own = torch.where(swapped, self._of(label, 1), label)
        lent = torch.where(swapped, self._of(label.flip(0), 2), label)
        exchanged = (self._told(mixed, self.centers, own) + self._told(mixed, self.centers, lent)) / 2
        return self._told(rows, self.fixed, label) + exchanged

    @torch.no_grad()
    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """The share of samples that are nearest to a fixed centre of their class."""
        if labels is None:
            return {}
        parts = [inputs[begin : begin + COUNTED] for begin in range(0, len(inputs), COUNTED)]
        rows = torch.cat([self.features(part) for part in parts])
        _, nearest = topk_similarity(rows, self.fixed, 1, metric="cosine", backend=self.backend)
        return {"label_accuracy": (nearest[:, 0] // self.subcenters == labels).double().mean().item()}

    def _of(self, label: Tensor, kind: int) -> Tensor:
        return torch.where(label < 0, label, label + kind * self.classes)

    def _told(self, rows: Tensor, centers: Tensor, target: Tensor) -> Tensor:
        scale = max(1.0, math.sqrt(2) * math.log(len(centers) - 1))
        options: dict[str, Any] = {"scale": scale, "subcenters": self.subcenters, "normalize": True}
        return linear_cross_entropy(rows, centers, target, **options, backend=self.backend)
