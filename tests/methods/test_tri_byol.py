# SPDX-License-Identifier: Apache-2.0
"""TriBYOL against its paper's formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sslkernels.methods import TriBYOL
from sslkernels.models import ResNet


def tri_byol(**options) -> TriBYOL:
    return TriBYOL(ResNet(1, (4,), (1,)), feature_dim=4, hidden_dim=8, projection_dim=6, **options).double()


def three_views(n: int = 7) -> list[torch.Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(3)]


def formula(method: TriBYOL, views: list[torch.Tensor]) -> torch.Tensor:
    def distance(view: int, target: torch.nn.Module, other: int) -> torch.Tensor:
        p = F.normalize(method.predictor(method.projector(method.backbone(views[view]))), dim=1)
        t = F.normalize(target(views[other]), dim=1).detach()
        return (2 - 2 * (p * t).sum(1)).mean()

    first, second = method.teacher.module, method.second.module
    return (
        (distance(0, first, 1) + distance(1, first, 0)) / 2 + (distance(0, second, 2) + distance(2, second, 0)) / 2
    )  # fmt: skip


def test_loss_and_gradients_are_those_of_the_paper():
    method, views = tri_byol(), three_views()
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_both_targets_move_and_come_together():
    method = tri_byol(momentum=0.9)

    def apart() -> float:
        pairs = zip(method.teacher.parameters(), method.second.parameters(), strict=True)
        return sum(float((a - b).square().sum()) for a, b in pairs)

    before = apart()
    assert before > 0.1
    for step in range(10):
        method.after_step(step, 1000)
    assert apart() == pytest.approx(0.9**20 * before, rel=1e-2)
    assert not any(parameter.requires_grad for parameter in method.second.parameters())


def test_anything_but_three_views_is_refused():
    with pytest.raises(ValueError, match="TriBYOL: 2 views came; pass 3 views of the same samples"):
        tri_byol()(three_views()[:2])
