# SPDX-License-Identifier: Apache-2.0
"""SIE against its paper's formula."""

from __future__ import annotations

import pytest
import torch

from sslkernels.methods import SIE
from sslkernels.models import ResNet


def sie(**options) -> SIE:
    return SIE(ResNet(1, (6,), (1,)), feature_dim=6, action_dim=3, projection_dim=5, **options).double()


def formula(method: SIE, views: list[torch.Tensor], action: torch.Tensor) -> torch.Tensor:
    rows = [method.backbone(view) for view in views]
    i = [method.invariant_expander(row[:, :3]) for row in rows]
    e = [method.equivariant_expander(row[:, 3:]) for row in rows]
    matrices = method.hypernetwork.weight.view(5, 3, 5)  # out, W1 to W3, in
    maps = [sum(g[k] * matrices[:, k] for k in range(3)) for g in action]
    moved = torch.stack([each @ row for each, row in zip(maps, e[0], strict=True)])
    whole = [torch.cat([a, b], 1) for a, b in zip(i, e, strict=True)]

    def hinge(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(1 - torch.sqrt(x.var(0) + 1e-4)).mean()

    def penalty(x: torch.Tensor) -> torch.Tensor:
        covariance = x.T.cov()
        return (covariance.square().sum() - covariance.diagonal().square().sum()) / x.shape[1]

    return (
        10 * (i[0] - i[1]).square().mean() + 45 * (moved - e[1]).square().mean()
        + 10 * (hinge(whole[0]) + hinge(whole[1])) / 2 + 10 * hinge(moved) / 2
        + penalty(whole[0]) + penalty(whole[1])
    )  # fmt: skip


def test_loss_and_gradients_are_those_of_the_paper():
    method, action = sie(), torch.randn(9, 3, dtype=torch.float64)
    views = [torch.rand(9, 1, 8, 8, dtype=torch.float64) for _ in range(2)]
    loss, exact = method(views, action=action)["loss"], formula(method, views, action)
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_every_share_leaves_both_parts_a_feature():
    for share, width in ((1e-9, 1), (0.5, 3), (0.7, 4), (1.0, 5)):
        invariant, equivariant = sie(equivariant=share).parts(torch.rand(2, 6))
        assert (invariant.shape[1], equivariant.shape[1]) == (6 - width, width)


def test_what_was_done_must_fit():
    views = [torch.rand(9, 1, 8, 8, dtype=torch.float64) for _ in range(2)]
    with pytest.raises(ValueError, match="SIE: action of each sample is missing"):
        sie()(views)
    for wrong in (torch.rand(9, 2), torch.rand(8, 3), torch.rand(9)):
        with pytest.raises(ValueError, match="SIE: action has shape"):
            sie()(views, action=wrong)
