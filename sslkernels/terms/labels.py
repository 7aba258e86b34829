# SPDX-License-Identifier: Apache-2.0
"""Labels: the classes that people gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import came, check_count, is_whole
from sslkernels.terms.task import COUNTED
from sslkernels.terms.term import Features, Term


class Labels(Term):
    """Tell the class of a sample: the cross-entropy of a linear layer on the features.

    Args:
        feature_dim: features of the backbone.
        classes: number of classes.

    >>> import torch
    >>> from sslkernels.terms import Labels
    >>> term = Labels(feature_dim=64, classes=10)
    >>> term(torch.nn.Flatten(), [torch.rand(4, 1, 8, 8)], label=torch.tensor([3, 1, 4, 1])).shape
    torch.Size([])
    """

    needs = ("label",)

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__(feature_dim)
        if not is_whole(classes, 2):
            raise ValueError(f"Labels: classes is {came(classes)}; pass at least 2, of data with labels.")
        self.head = nn.Linear(feature_dim, check_count("Labels", "classes", classes, feature_dim))

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        logits = self.head(features(*self.taken(views)))
        return F.cross_entropy(logits, self.known(given, len(logits)))

    @torch.no_grad()
    def scores(self, features: Features, inputs: Any, labels: Tensor | None) -> dict[str, float]:
        """The share of samples whose class is told."""
        if labels is None:
            return {}
        parts = zip(inputs.split(COUNTED), labels.split(COUNTED), strict=True)
        right = sum(int((self.head(features(part)).argmax(1) == label).sum()) for part, label in parts)
        return {"label_accuracy": right / len(labels)}
