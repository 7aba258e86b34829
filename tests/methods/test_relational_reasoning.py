# SPDX-License-Identifier: Apache-2.0
"""Relational reasoning against its paper's formula, pair by pair."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import RelationalReasoning
from sslkernels.models import ResNet


def relational(**options) -> RelationalReasoning:
    return RelationalReasoning(ResNet(1, (6,), (1,)), feature_dim=6, hidden_dim=5, **options).double()


def drawn(views: int, rows: int = 4) -> list[Tensor]:
    return [torch.rand(rows, 1, 8, 8, dtype=torch.float64) for _ in range(views)]


def formula(method: RelationalReasoning, views: list[Tensor]) -> Tensor:
    features = [method.backbone(view) for view in views]
    count = len(views[0])
    joined, truth, shift = [], [], 1
    for one, other in combinations(features, 2):
        joined += [torch.cat([one, other], 1), torch.cat([one, torch.roll(other, shift, 0)], 1)]
        truth += [torch.ones(count), torch.zeros(count)]
        shift = shift + 1 if shift + 1 < count else 1
    p = method.score(method.join(torch.cat(joined)))[:, 0].sigmoid()
    y = torch.cat(truth).double()
    q, weight = y * p + (1 - y) * (1 - p), y * method.alpha + (1 - y) * (1 - method.alpha)
    return (weight * (1 - q) ** method.gamma * -q.log()).mean()


@pytest.mark.parametrize(("views", "rows"), [(2, 4), (4, 3), (3, 2)])
def test_loss_and_gradients_are_those_of_the_paper(views: int, rows: int, backend: str) -> None:
    method, seen = relational(alpha=0.3, gamma=1.5, backend=backend), drawn(views, rows)
    loss, exact = method(seen)["loss"], formula(method, seen)
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    found = torch.autograd.grad(loss, weights)
    for one, other in zip(found, torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient.any() for gradient in found)


def test_plain_cross_entropy_is_the_case_without_focus() -> None:
    method, same, different = relational(gamma=0.0), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    scores, truth = torch.cat([same, different]), torch.cat([torch.ones(3, 4), torch.zeros(3, 4)]).double()
    expected = F.binary_cross_entropy_with_logits(scores, truth) / 2  # alpha weighs both sides by a half
    torch.testing.assert_close(method.loss(same, different), expected)


def test_scores_of_any_size_have_a_finite_loss() -> None:
    far = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = relational().loss(far, -far)
    loss.backward()
    assert loss.isfinite() and far.grad.isfinite().all()


def test_what_it_scores_on_held_out_images() -> None:
    method, images = relational().eval(), drawn(1, 6)[0]
    found = method.scores(images, None)["relation_accuracy"]
    features = method.backbone(images)
    same = method.score(method.join(torch.cat([features, features], 1)))
    different = method.score(method.join(torch.cat([features, features.roll(1, 0)], 1)))
    assert found == pytest.approx(torch.cat([same > 0, different < 0]).float().mean().item())


def test_one_image_or_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="RelationalReasoning: views have one sample; pass two or more"):
        relational()(drawn(2, 1))
    with pytest.raises(ValueError, match="RelationalReasoning: 1 views came; pass 2 views of the same samples"):
        relational()(drawn(1))
