# SPDX-License-Identifier: Apache-2.0
"""GenView: learn more from pairs of views that show the same thing before different backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_kind, check_number, check_tensor, shape_of
from sslkernels.distributed import GroupLike, all_rows, summed
from sslkernels.functional import info_nce
from sslkernels.functional.similarity import sharded
from sslkernels.methods.moco_v3 import MoCoV3
from sslkernels.models import patchify

# Directions shorter than this have none.
EPS = 1e-8


class Squares(nn.Module):
    """Cut images ``(N, C, H, W)`` into squares ``(N, L, size * size * C)``."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        return patchify(images, self.size)


class GenView(MoCoV3):
    """GenView: Enhancing View Quality with Pretrained Generative Model for SSL. Li et al., ECCV 2024.

    MoCo v3 whose pairs count by their quality: high where the foregrounds f of both views are alike and the backgrounds
    b are not. With the cosines s_f and s_b of them,

    ``loss = 2τ · mean_i w_i · [CE_i(q0, k1) + CE_i(q1, k0)]`` with ``w_i = N · softmax_i(γ · (s_f − s_b))``

    over the N pairs of all ranks. Weights get no gradient. The ``judge`` gives tokens of a view. Their first principal
    component, scaled to [0, 1] within each view, says how much of the foreground a token is; f and b are the tokens'
    means, so weighted.

    The paper generates one of the views and judges by a frozen CLIP; bring such pairs as data with partners, and such a
    judge. Ours are squares of pixels in the judge's place, the component of the batch in that of the data set, and the
    side of it that is the foreground: the one with the longer tail.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        judge: views to tokens ``(N, L, C)``, not trained. None takes squares of 2 pixels of an image.
        gamma: how much quality counts; with 0 all pairs count alike.
        hidden_dim, projection_dim, temperature, momentum: see `MoCoV3`.
        backend, group: see `Method`. Keys of other ranks are negatives.

    >>> import torch
    >>> from sslkernels.methods import GenView
    >>> from sslkernels.models import resnet_small
    >>> method = GenView(resnet_small(), feature_dim=128, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Li et al. 2024"
    arxiv = "2403.12003"
    seeds = (5,)
    small = {**MoCoV3.small, "epochs": 20}
    paper_options = MoCoV3.paper_options

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        judge: nn.Module | None = None,
        gamma: float = 1.0,
        hidden_dim: int = 4096,
        projection_dim: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(
            backbone,
            feature_dim=feature_dim,
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
            temperature=temperature,
            momentum=momentum,
            backend=backend,
            group=group,
        )
        expected = "a module that maps views to tokens (N, L, C), or None"
        self.judge = check_kind("GenView", "judge", Squares() if judge is None else judge, nn.Module, expected)
        self.judge.requires_grad_(False)
        self.gamma = check_number("GenView", "gamma", gamma, least=0.0)
        self.train(self.training)

    def train(self, mode: bool = True) -> GenView:
        """Train all but the judge, whose BatchNorm keeps its statistics."""
        super().train(mode)
        self.judge.eval()
        return self

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        embeddings = *self.queries_and_keys(views), self.quality(views)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def check_views(self, views: Sequence[Tensor]) -> None:
        self.tokens(views[0])

    @torch.no_grad()
    def quality(self, views: Sequence[Tensor]) -> Tensor:
        """Compute ``s_f − s_b (N,)`` of pairs of views."""
        tokens = torch.stack([self.tokens(view) for view in self.two_views(views)])
        foreground = self.foreground(tokens)
        both = torch.stack([foreground, 1 - foreground])
        shares = both / both.sum(3, keepdim=True).clamp_min(EPS)
        means = (shares[..., None] * tokens).sum(3)  # foreground and background, view, sample, feature
        similar = F.cosine_similarity(means[:, 0], means[:, 1], dim=2, eps=EPS)
        return similar[0] - similar[1]

    def tokens(self, view: Tensor) -> Tensor:
        found = check_tensor("GenView", "what judge gives", self.judge(view), "(N, L, C)")
        if found.dim() != 3 or len(found) != len(view):
            raise ValueError(
                f"GenView: judge gives tokens of shape {shape_of(found)} for {len(view)} views; pass one to (N, L, C)."
            )
        return found.float() if found.dtype != torch.float64 else found

    def foreground(self, tokens: Tensor) -> Tensor:
        """Tell how much of the foreground each token ``(2, N, L, C)`` is, from 0 to 1 in each view."""
        shard = sharded(self.group, "GenView", tokens[0].flatten(1), tokens=tokens.shape[2])
        rows = tokens.flatten(0, 2)
        count = 2 * tokens.shape[2] * shard.total(tokens.shape[1])
        middle = summed(rows.sum(0), shard) / count
        rows = rows - middle
        _, directions = torch.linalg.eigh(summed(rows.T @ rows, shard))
        along = rows @ directions[:, -1]
        along = along * torch.where(summed(along.pow(3).sum(), shard) < 0, -1, 1)
        along = along.view(tokens.shape[:3])
        low, high = along.amin(2, keepdim=True), along.amax(2, keepdim=True)
        return (along - low) / (high - low).clamp_min(EPS)

    def loss(self, q0: Tensor, q1: Tensor, k0: Tensor, k1: Tensor, quality: Tensor) -> Tensor:  # type: ignore[override]
        shard = sharded(self.group, "GenView", q0, q1)
        total = shard.total(len(quality))
        weights = total * (self.gamma * all_rows(quality, shard)).softmax(0)
        own = weights[shard.start : shard.start + len(quality)]
        losses = self._each(q0, k1) + self._each(q1, k0)
        return 2 * self.temperature * (own * losses).sum() * shard.ranks / total

    def _each(self, query: Tensor, key: Tensor) -> Tensor:
        temperature, group, backend = self.temperature, self.group, self.backend
        return info_nce(query, key, temperature=temperature, reduction="none", group=group, backend=backend)
