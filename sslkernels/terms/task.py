# SPDX-License-Identifier: Apache-2.0
"""The base class of pretext tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_size
from sslkernels.terms.term import Features, Term

# Samples whose tasks are solved at once when they are counted.
COUNTED = 256


class Task(Term):
    """A pretext task: samples are changed by chance, and the network tells how. The term is the cross-entropy.

    Args:
        feature_dim: features of the backbone.
        classes: number of changes to tell apart.
        parts: how many inputs of the backbone are made of a sample; the head sees their features side by side.
    """

    # A changed sample is a sample still, so that tasks can be chained: each changes what the one before gave.
    chains: ClassVar[bool] = False

    def __init__(self, feature_dim: int, classes: int, parts: int = 1) -> None:
        super().__init__(feature_dim)
        self.classes = check_size(type(self).__name__, "classes", classes, least=2)
        self.parts = parts
        self.head: nn.Module = nn.Linear(parts * feature_dim, classes)

    def draw(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Change ``(N, ...)`` into ``(N * parts, ...)``, the parts of a sample one after the other, and give the
        answers int64 ``(N,)``.
        """
        raise NotImplementedError

    def logits(self, rows: Tensor) -> Tensor:
        """Compute ``(N, classes)`` of the features ``(N * parts, feature_dim)``."""
        return self.head(rows.reshape(-1, self.parts * self.feature_dim))

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        changed, answers = self.draw(*self.taken(views))
        return F.cross_entropy(self.logits(features(changed)), answers)

    def check_views(self, views: Sequence[Any]) -> None:
        self.draw(views[0])

    @torch.no_grad()
    def scores(self, features: Features, inputs: Any, labels: Tensor | None) -> dict[str, float]:
        """The share of right answers for one change of each sample."""
        right = 0
        for begin in range(0, len(inputs), COUNTED):
            changed, answers = self.draw(inputs[begin : begin + COUNTED])
            right += int((self.logits(features(changed)).argmax(1) == answers).sum())
        return {f"{type(self).__name__.lower()}_accuracy": right / len(inputs)}
