# SPDX-License-Identifier: Apache-2.0
"""MarginClassifier: tell classes by angles that must be smaller than they need to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslkernels.arguments import came, check_choice, check_count, check_number, is_whole
from sslkernels.distributed import GroupLike
from sslkernels.functional import linear_cross_entropy, topk_similarity
from sslkernels.functional.labelled import check_labels
from sslkernels.methods.method import Method
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.terms.task import COUNTED

# The margins of `linear_cross_entropy`, by the names that the field has for the losses.
MARGINS = {"aam": "arc", "cos": "cos"}
# The largest margin, a little less than half a turn.
MOST = 3.0


class MarginClassifier(Method):
    """ArcFace: Additive Angular Margin Loss for Deep Face Recognition. Deng et al., CVPR 2019.

    The supervised stage of speaker verification and of sound anomalies: a cross-entropy of cosines of the features with
    a centre of each class, in which the cosine of the sample's own class is made smaller. Labels may be pseudo-labels;
    samples with -1 do not count.

    Args:
        backbone: samples to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        classes: number of classes, at least 2.
        kind: ``"aam"`` adds the margin to the angle (ArcFace, AAM-softmax), ``"cos"`` takes it from the cosine (CosFace
            of Wang et al. 2018, AM-softmax).
        margin: from 0, a classifier of cosines, to 3.
        scale: what cosines are multiplied by. None takes ``√2 · log(C − 1)`` of all ``C = classes · subcenters``
            centres, at least 1: fixed AdaCos (Zhang et al. 2019), whose margin is 0.
        subcenters: centres of each class; see `sslkernels.functional.linear_cross_entropy`.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import MarginClassifier
    >>> from sslkernels.models import resnet_small
    >>> method = MarginClassifier(resnet_small(), feature_dim=128, classes=10)
    >>> method([torch.rand(16, 1, 8, 8)], label=torch.arange(16) % 10)["loss"].shape
    torch.Size([])
    """

    paper = "Deng et al. 2019"
    arxiv = "1801.07698"
    family = SIMILARITY
    views = 1
    needs = ("label",)
    whole_views = True
    small = {"epochs": 30, "batch_size": 256, "lr": 1e-3}
    paper_options = {"epochs": 16, "batch_size": 512, "lr": 1e-3, "margin": 0.5, "scale": 64.0}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        classes: int,
        kind: Literal["aam", "cos"] = "aam",
        margin: float = 0.2,
        scale: float | None = 30.0,
        subcenters: int = 1,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = "MarginClassifier", self.check_feature_dim(feature_dim)
        if not is_whole(classes, 2):
            raise ValueError(f"{name}: classes is {came(classes)}; pass at least 2, of data with labels.")
        classes = check_count(name, "classes", classes, feature_dim)
        self.subcenters = check_count(name, "subcenters", subcenters, feature_dim * classes)
        centers = classes * self.subcenters
        self.kind = MARGINS[check_choice(name, "kind", kind, tuple(MARGINS))]
        self.margin = check_number(name, "margin", margin, least=0.0, most=MOST)
        fixed = max(1.0, math.sqrt(2) * math.log(centers - 1))
        self.scale = fixed if scale is None else check_number(name, "scale", scale, above=0.0)
        self.centers = nn.Parameter(torch.empty(centers, feature_dim))
        nn.init.xavier_uniform_(self.centers)

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        rows = self.features(self.one_view(views))
        embeddings = rows, check_labels("MarginClassifier", "label", self.needed(given)["label"], rows)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    @torch.no_grad()
    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """The share of samples that are nearest to a centre of their class."""
        if labels is None:
            return {}
        parts = [inputs[begin : begin + COUNTED] for begin in range(0, len(inputs), COUNTED)]
        rows = torch.cat([self.features(part) for part in parts])
        _, nearest = topk_similarity(rows, self.centers, 1, metric="cosine", backend=self.backend)
        return {"label_accuracy": (nearest[:, 0] // self.subcenters == labels).double().mean().item()}

    def loss(self, rows: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        return linear_cross_entropy(
            rows,
            self.centers,
            label,
            scale=self.scale,
            margin=self.margin,
            margin_kind=self.kind,
            subcenters=self.subcenters,
            normalize=True,
            backend=self.backend,
        )
