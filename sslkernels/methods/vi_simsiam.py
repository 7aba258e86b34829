# SPDX-License-Identifier: Apache-2.0
"""VI-SimSiam: SimSiam that says how sure it is of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import REDUCTIONS, check_choice, check_floating, check_pair, check_tensor, shape_of
from sslkernels.distributed import GroupLike
from sslkernels.functional import negative_cosine_similarity
from sslkernels.functional.similarity import sharded
from sslkernels.methods.simsiam import SimSiam

# 1 + cos counts as at least this: opposite directions have a likelihood of zero, whose logarithm has no gradient.
LEAST = 1e-6


class VISimSiam(SimSiam):
    """Representation Uncertainty in Self-Supervised Learning as Variational Inference. Nakamura et al., ICCV 2023.

    Each view has a power spherical distribution of directions: its mean is SimSiam's prediction, and its concentration
    κ, a softplus of a linear map of the features, is small where the network is unsure. The loss is the negative
    log-likelihood of the other view's projection, which gets no gradient, the mean over both orders of the views.

    This is after the abstract and the paper's likelihood: nobody here could verify how the paper weighs its terms, and
    this one stands alone.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        projection_dim: width of the projector's three layers; the predictor's hidden layer has a quarter of it.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    >>> import torch
    >>> from sslkernels.methods import VISimSiam
    >>> from sslkernels.models import resnet_small
    >>> method = VISimSiam(resnet_small(), feature_dim=128, projection_dim=64)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape, method.concentration(method.backbone(views[0])).shape
    (torch.Size([]), torch.Size([16]))
    """

    paper = "Nakamura et al. 2023"
    arxiv = "2203.11437"
    seeds = (118,)
    after_abstract = True
    small = {"epochs": 30, "batch_size": 32, "lr": 1e-3, "projection_dim": 256}
    paper_options = {"epochs": 100, "batch_size": 256, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        projection_dim: int = 2048,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, feature_dim=feature_dim, projection_dim=projection_dim, backend=backend, group=group)
        self.kappa = nn.Linear(feature_dim, 1)

    def concentration(self, features: Tensor) -> Tensor:
        """Compute κ ``(N,)`` of features ``(N, feature_dim)``: how sure the network is."""
        return F.softplus(self.kappa(features))[:, 0]

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        y0, y1 = (self.features(view) for view in self.two_views(views))
        z0, z1 = self.projector(y0), self.projector(y1)
        embeddings = (
            self.predictor(z0), self.predictor(z1), z0.detach(), z1.detach(), self.concentration(y0),
            self.concentration(y1),
        )  # fmt: skip
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, p0: Tensor, p1: Tensor, z0: Tensor, z1: Tensor, kappa0: Tensor, kappa1: Tensor) -> Tensor:  # type: ignore[override]
        first = power_spherical_nll(z1, p0, kappa0, group=self.group, backend=self.backend)
        return (first + power_spherical_nll(z0, p1, kappa1, group=self.group, backend=self.backend)) / 2


def power_spherical_nll(
    x: Tensor,
    mean: Tensor,
    kappa: Tensor,
    *,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Make directions likely under power spherical distributions (De Cao and Aziz 2020, arXiv 2006.04437).

    ``−log p(x_i) = −log C(κ_i) − κ_i · log(1 + cos(mean_i, x_i))`` with ``−log C(κ) = (α + β) log 2 + β log π
    + log Γ(α) − log Γ(α + β)``, ``α = (D − 1) / 2 + κ`` and ``β = (D − 1) / 2``. The mean over rows.

    Args:
        x: directions ``(N, D)``, ``N >= 1``, ``D >= 2``; any length but zero.
        mean: ``(N, D)``, the mean directions, of any length.
        kappa: ``(N,)``, at least 0: how concentrated each distribution is.
        reduction, group, backend: as in `negative_cosine_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``. ``1 + cos`` counts as at least 1e-6. The normaliser is
        computed in float64: its two gamma functions cancel. Cost: that of `negative_cosine_similarity`, and O(N).

    >>> import torch
    >>> from sslkernels.methods.vi_simsiam import power_spherical_nll
    >>> power_spherical_nll(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([0.0]))
    tensor(1.8379)
    """
    check_choice("power_spherical_nll", "reduction", reduction, REDUCTIONS)
    check_pair("power_spherical_nll", {"x": x, "mean": mean}, gathered=group is not None)
    check_floating("power_spherical_nll", "kappa", check_tensor("power_spherical_nll", "kappa", kappa, "(N,)"))
    if kappa.shape != x.shape[:1] or x.shape[1] < 2:
        raise ValueError(
            f"power_spherical_nll: x has shape {shape_of(x)} and kappa {shape_of(kappa)}; pass rows of at least two "
            "features, and a concentration for each."
        )
    cosines = -negative_cosine_similarity(x, mean, reduction="none", backend=backend)
    beta = (x.shape[1] - 1) / 2
    exact = kappa.double()
    normaliser = (2 * beta + exact) * math.log(2) + beta * math.log(math.pi)
    normaliser = normaliser + torch.lgamma(beta + exact) - torch.lgamma(2 * beta + exact)
    likely = kappa.to(cosines.dtype) * torch.log1p(cosines.clamp(min=LEAST - 1))
    rows = normaliser.to(cosines.dtype) - likely
    if reduction == "none":
        return rows
    shard = sharded(group, "power_spherical_nll", x, mean, reduction=reduction)
    return rows.sum() if reduction == "sum" else rows.sum() * (shard.ranks / shard.total(len(rows)))
