# SPDX-License-Identifier: Apache-2.0
"""GenView against its paper's weights of pairs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import GenView, MoCoV3
from sslkernels.models import ResNet


def genview(**options) -> GenView:
    backbone = ResNet(1, (6,), (1,))
    return GenView(backbone, feature_dim=6, hidden_dim=5, projection_dim=4, temperature=0.4, **options).double()


def drawn() -> list[torch.Tensor]:
    return [torch.rand(7, 1, 8, 8, dtype=torch.float64).pow(4) for _ in range(2)]


def squares(images: torch.Tensor) -> torch.Tensor:
    found = [images[:, 0, y : y + 2, x : x + 2].flatten(1) for y in range(0, 8, 2) for x in range(0, 8, 2)]
    return torch.stack(found, 1)


def formula(views: list[torch.Tensor]) -> torch.Tensor:
    """Weigh the squares of each view by their place along the first singular vector of all of them."""
    tokens = [squares(view) for view in views]
    every = torch.cat(tokens).flatten(0, 1)
    first = torch.linalg.svd(every - every.mean(0)).Vh[0]
    if ((every - every.mean(0)) @ first).pow(3).sum() < 0:
        first = -first
    qualities = []
    for pair in zip(*tokens, strict=True):
        pooled = []
        for each in pair:
            place = each @ first
            mask = (place - place.min()) / (place.max() - place.min())
            pooled.append([(share / share.sum()) @ each for share in (mask, 1 - mask)])
        of = [F.cosine_similarity(pooled[0][side], pooled[1][side], dim=0) for side in (0, 1)]
        qualities.append(of[0] - of[1])
    return torch.stack(qualities)


def test_quality_is_that_of_foreground_less_that_of_background():
    views = drawn()
    torch.testing.assert_close(genview().quality(views), formula(views))


def test_loss_weighs_each_pair_and_gradients_follow():
    method, views = genview(gamma=5.0), drawn()
    loss = method(views)["loss"]
    q = [F.normalize(method.predictor(method.embed(view)), dim=1) for view in views]
    k = [F.normalize(method.teacher(view), dim=1) for view in views]
    pairs = [F.cross_entropy(a @ b.T / 0.4, torch.arange(7), reduction="none") for a, b in ((q[0], k[1]), (q[1], k[0]))]
    powers = torch.exp(5.0 * formula(views))
    exact = 2 * 0.4 * (7 * powers / powers.sum() * (pairs[0] + pairs[1])).mean()
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


def test_without_weights_it_is_moco_v3():
    method, views = genview(gamma=0.0), drawn()
    *embeddings, quality = method(views)["embeddings"]
    assert quality.std() > 0
    torch.testing.assert_close(method.loss(*embeddings, quality), super(GenView, method).loss(*embeddings))
    assert type(method).__mro__[1] is MoCoV3


def test_a_judge_is_not_trained_and_must_give_tokens():
    judge = nn.Sequential(nn.Conv2d(1, 3, 2, 2), nn.BatchNorm2d(3), nn.Flatten(2))
    method = genview(judge=judge).train()
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    assert method(drawn())["embeddings"][-1].shape == (7,)
    assert not any(weight.requires_grad for weight in judge.parameters()) and method.training
    assert all(torch.equal(value, before[name]) for name, value in judge.state_dict().items())
    with pytest.raises(
        ValueError, match=r"GenView: judge gives tokens of shape \(7, 64\) for 7 views; pass one to \(N"
    ):
        genview(judge=nn.Flatten())(drawn())


def test_views_of_one_color_weigh_as_others_do():
    views = [torch.zeros(7, 1, 8, 8, dtype=torch.float64), drawn()[0]]
    assert genview().quality(views).isfinite().all()
