# SPDX-License-Identifier: Apache-2.0
"""Action: what was done between two views?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.arguments import check_temperature, check_widths
from sslkernels.functional import info_nce
from sslkernels.models import ProjectionHead
from sslkernels.terms.term import Features, Term


class ActionMatch(Term):
    """Match the features of two views, side by side, with what was done between them (Aubret et al. 2024, arXiv
    2407.06704).

    InfoNCE in which the embedding of a pair has that of its own action as the positive, and the other actions of the
    batch as negatives. Both embeddings are perceptrons; their widths are ours.

    Args:
        feature_dim: features of the backbone.
        action_dim: numbers that tell what was done.
        match_dim: features that the loss compares.
        match_temperature: temperature of the loss; see `sslkernels.functional.info_nce`.

    >>> import torch
    >>> from sslkernels.terms import ActionMatch
    >>> term = ActionMatch(feature_dim=64, action_dim=2)
    >>> views = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
    >>> term(torch.nn.Flatten(), views, action=torch.randn(4, 2)).shape
    torch.Size([])
    """

    views = 2
    needs = ("action",)

    def __init__(
        self, feature_dim: int, action_dim: int, *, match_dim: int = 64, match_temperature: float = 0.1
    ) -> None:
        super().__init__(feature_dim)
        _, self.action_dim, match_dim = check_widths(
            "ActionMatch", feature_dim=feature_dim, action_dim=action_dim, match_dim=match_dim
        )
        self.match_temperature = check_temperature("ActionMatch", match_temperature, "match_temperature")
        self.pair = ProjectionHead(2 * feature_dim, feature_dim, match_dim)
        self.action = ProjectionHead(self.action_dim, match_dim, match_dim)

    def forward(self, features: Features, views: Sequence[Any], **given: Tensor) -> Tensor:
        pairs = self.pair(torch.cat([features(view) for view in self.taken(views)], 1))
        actions = self.action(self.known(given, len(pairs), self.action_dim).to(pairs.dtype))
        return info_nce(pairs, actions, temperature=self.match_temperature, group=self.group, backend=self.backend)
