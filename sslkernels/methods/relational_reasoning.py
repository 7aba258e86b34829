# SPDX-License-Identifier: Apache-2.0
"""Relational reasoning: tell from the features of two views whether they show one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import gather_tokens
from sslkernels.methods.method import Method
from sslkernels.ops.dtypes import wide
from sslkernels.ops.tokens import TOKENS


class RelationalReasoning(Method):
    """Self-Supervised Relational Reasoning for Representation Learning. Patacchiola and Storkey, NeurIPS 2020.

    The p-th pair of views, (i, j) with i < j, is joined as it is, which shows the same images, and with the images of
    view j rolled by ``1 + p mod (N - 1)``, which shows different ones. A head scores each joined row; with ``q`` the
    probability that it gives to the truth, the loss is the mean over all scores of the focal cross-entropy
    ``-w * (1 - q)^gamma * log q``, w being alpha for the same images and ``1 - alpha`` for different ones.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        hidden_dim: width of the head's hidden layer.
        gamma: exponent that makes scores count less that are right already; 0 gives the plain cross-entropy.
        alpha: weight of pairs that show the same image, from 0 to 1.
        backend: see `Method`.
        group: see `Method`. Each rank pairs its own images, of which it needs two or more.

    `forward` takes any number of views from two up; the paper has 32. The head's first layer sees the two halves of a
    joined row one by one, so that its cost grows with the number of views, and not of pairs.

    >>> import torch
    >>> from sslkernels.methods import RelationalReasoning
    >>> from sslkernels.models import resnet_small
    >>> method = RelationalReasoning(resnet_small(), feature_dim=128)
    >>> method([torch.rand(16, 1, 8, 8) for _ in range(4)])["loss"].shape
    torch.Size([])
    """

    paper = "Patacchiola and Storkey 2020"
    arxiv = "2006.05849"
    seeds = (56,)
    family = TOKENS
    views = None
    small = {"epochs": 25, "batch_size": 64, "lr": 1e-3}
    paper_options = {"epochs": 200, "batch_size": 64, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 256,
        gamma: float = 2.0,
        alpha: float = 0.5,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim = check_widths("RelationalReasoning", feature_dim=2 * feature_dim, hidden_dim=hidden_dim)
        self.gamma = check_number("RelationalReasoning", "gamma", gamma, least=0)
        self.alpha = check_number("RelationalReasoning", "alpha", alpha, least=0, most=1)
        self.join = nn.Linear(2 * feature_dim, hidden_dim, bias=False)  # the BatchNorm that follows brings the bias
        self.score = nn.Sequential(nn.BatchNorm1d(hidden_dim), nn.LeakyReLU(), nn.Linear(hidden_dim, 1))

    def check_views(self, views: Sequence[Tensor]) -> None:
        if len(self.any_views(views)[0]) < 2:
            raise ValueError("RelationalReasoning: views have one sample; pass two or more, to tell them apart.")

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        self.check_views(views)
        embeddings = self.relate(torch.stack([self.features(view) for view in views]))
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def relate(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Score pairs of the views ``(K, N, feature_dim)``, of same and of different images: ``(P, N)`` each."""
        views, count, _ = features.shape
        i, j = torch.triu_indices(views, views, 1, device=features.device)
        shift = 1 + torch.arange(len(i), device=i.device) % max(1, count - 1)
        rolled = (torch.arange(count, device=i.device) - shift[:, None]) % count
        first, second = (F.linear(features, half) for half in self.join.weight.chunk(2, 1))
        same = first[i] + second[j]
        different = first[i] + gather_tokens(second[j], rolled, backend=self.backend)
        scores = self.score(torch.cat([same, different]).flatten(0, 1)).view(2, len(i), count)
        return scores[0], scores[1]

    def loss(self, same: Tensor, different: Tensor) -> Tensor:  # type: ignore[override]
        true, false = (self._focal(wrong) for wrong in (-same, different))
        return (self.alpha * true + (1 - self.alpha) * false) / 2

    def _focal(self, wrong: Tensor) -> Tensor:
        """Compute the mean focal cross-entropy, given the log-odds of the wrong answers."""
        wrong = wrong.to(wide(wrong.dtype))  # autocast gives scores of 8 bits
        return (wrong.sigmoid() ** self.gamma * F.softplus(wrong)).mean()

    @torch.no_grad()
    def scores(self, inputs: Tensor, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """Compute how often images are told from their neighbours in the batch, as they are."""
        same, different = self.relate(torch.stack([self.features(inputs)] * 2))
        return {"relation_accuracy": torch.stack([same > 0, different < 0]).float().mean().item()}
