# SPDX-License-Identifier: Apache-2.0
"""SIE: one half of the features stays when an object is turned, and the other half turns with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_fits, check_number, check_tensor, check_weights, check_widths, shape_of
from sslkernels.distributed import GroupLike
from sslkernels.functional import covariance_penalty, variance_hinge
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.correlation import CORRELATION


class SIE(Method):
    """Self-Supervised Learning of Split Invariant Equivariant Representations. Garrido et al., ICML 2023.

    The features of two views x, x' of an object are split into an invariant and an equivariant part, each with an
    expander. With ``g``, what was done to the object between the views, and the expanded parts i, e:

    ``inv · |i − i'|² + equi · |ρ_g(e) − e'|² + var · ½ [hinge([i, e]) + hinge([i', e']) + hinge(ρ_g(e))]
    + cov · [penalty([i, e]) + penalty([i', e'])]``

    in which squares are means over all numbers, and hinge and penalty are VICReg's. ``ρ_g = Σ_k g_k W_k`` is a linear
    map that a linear network without a bias makes of ``g``: no map of the kind is the identity for every ``g``, so the
    equivariant part cannot stay as it is.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        action_dim: numbers that tell what was done; the paper has the 4 of a quaternion.
        equivariant: share of the features in the equivariant part, the last ones.
        projection_dim: width of each expander's three layers.
        inv, equi, var, cov: weights.
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import SIE
    >>> from sslkernels.models import resnet_small
    >>> method = SIE(resnet_small(), feature_dim=128, action_dim=2, projection_dim=32)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views, action=torch.randn(16, 2))["loss"].shape
    torch.Size([])
    """

    paper = "Garrido et al. 2023"
    arxiv = "2302.10283"
    seeds = (30,)
    family = CORRELATION
    needs = ("action",)
    # With the paper's var of 10 so small a network fills four directions only. Turns of any angle are needed: where all
    # are small, their cosine hardly varies, and what stays as it is fits.
    small = {"epochs": 30, "batch_size": 256, "lr": 5e-3, "projection_dim": 32, "var": 50.0}
    paper_options = {"epochs": 2000, "batch_size": 1024, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        action_dim: int = 4,
        equivariant: float = 0.5,
        projection_dim: int = 2048,
        inv: float = 10.0,
        equi: float = 45.0,
        var: float = 10.0,
        cov: float = 1.0,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, action_dim, projection_dim = check_widths(
            "SIE", feature_dim=feature_dim, action_dim=action_dim, projection_dim=projection_dim
        )
        check_fits("SIE", "projection_dim", projection_dim, action_dim * projection_dim**2)
        share = check_number("SIE", "equivariant", equivariant, above=0, most=1)
        self.inv, self.equi, self.var, self.cov = check_weights("SIE", inv=inv, equi=equi, var=var, cov=cov)
        self.equivariant_dim = min(max(1, round(share * feature_dim)), feature_dim - 1)
        self.invariant_expander, self.equivariant_expander = (
            ProjectionHead(width, projection_dim, projection_dim, layers=3, bias=False)
            for width in (feature_dim - self.equivariant_dim, self.equivariant_dim)
        )
        self.action_dim = action_dim
        # W₁, W₂, ... side by side, so that no matrix of a sample is ever made.
        self.hypernetwork = nn.Linear(action_dim * projection_dim, projection_dim, bias=False)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Split features into the invariant and the equivariant part."""
        invariant, equivariant = features.split([self.feature_dim - self.equivariant_dim, self.equivariant_dim], 1)
        return invariant, equivariant

    def moved(self, e: Tensor, action: Tensor) -> Tensor:
        """Compute ``ρ_g(e)`` of rows ``(N, projection_dim)`` and what was done, ``(N, action_dim)``."""
        check_tensor("SIE", "action", action, f"(N, {self.action_dim})")
        if action.shape != (len(e), self.action_dim):
            raise ValueError(
                f"SIE: action has shape {shape_of(action)}; pass {(len(e), self.action_dim)}, what was done to each "
                "sample."
            )
        return self.hypernetwork((action.to(e.dtype)[:, :, None] * e[:, None]).flatten(1))

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        action = self.needed(given)["action"]
        (i0, e0), (i1, e1) = (self.parts(self.features(view)) for view in self.two_views(views))
        i0, i1 = self.invariant_expander(i0), self.invariant_expander(i1)
        e0, e1 = self.equivariant_expander(e0), self.equivariant_expander(e1)
        embeddings = i0, i1, e0, e1, self.moved(e0, action)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, i0: Tensor, i1: Tensor, e0: Tensor, e1: Tensor, moved: Tensor) -> Tensor:  # type: ignore[override]
        where: dict[str, Any] = {"group": self.group, "backend": self.backend}
        rows = torch.cat([i0, e0], 1), torch.cat([i1, e1], 1)
        agree = self.inv * F.mse_loss(i0, i1) + self.equi * F.mse_loss(moved, e1)
        varied = sum((variance_hinge(each, **where) for each in rows), variance_hinge(moved, **where)) / 2
        return agree + self.var * varied + self.cov * sum(covariance_penalty(each, **where) for each in rows)
