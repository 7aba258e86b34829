# SPDX-License-Identifier: Apache-2.0
"""BYOL and SimSiam against their papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import BYOL, Method, SimSiam
from sslkernels.models import ResNet, resnet_small

VIEWS = "BYOL: 3 views came; pass two views", "SimSiam: 3 views came; pass two views"


def byol(**options) -> BYOL:
    method = BYOL(ResNet(1, (4,), (1,)), feature_dim=4, hidden_dim=8, projection_dim=6, **options).double()
    for parameter in method.teacher.parameters():  # so that the teacher differs from its student
        parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def simsiam() -> SimSiam:
    return SimSiam(ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=8).double()


def two_views(n: int = 7) -> list[torch.Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)]


def byol_formula(method: BYOL, views: list[torch.Tensor]) -> torch.Tensor:
    """Equation 2, in both orders of the views: the squared distance of unit rows."""
    total = torch.zeros(())
    for view, other in (views, views[::-1]):
        prediction = F.normalize(method.predictor(method.projector(method.backbone(view))), dim=1)
        target = F.normalize(method.teacher.module(other), dim=1).detach()
        total = total + (prediction - target).square().sum(1).mean()
    return total


def simsiam_formula(method: SimSiam, views: list[torch.Tensor]) -> torch.Tensor:
    """Equations 1 to 4: D(p, z) = -<p / |p|, z / |z|>, and no gradient through z."""
    z = [method.projector(method.backbone(view)) for view in views]
    p = [F.normalize(method.predictor(rows), dim=1) for rows in z]
    d = [-(a * F.normalize(b, dim=1).detach()).sum(1).mean() for a, b in ((p[0], z[1]), (p[1], z[0]))]
    return d[0] / 2 + d[1] / 2


@pytest.mark.parametrize(("make", "formula"), [(byol, byol_formula), (simsiam, simsiam_formula)])
def test_loss_and_gradients_are_those_of_the_paper(make, formula):
    method, views = make(), two_views()
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [byol, simsiam])
def test_gradient_reaches_all_but_the_teacher(make):
    method = make()
    method(two_views())["loss"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("make", [byol, simsiam])
def test_embeddings_are_those_of_the_loss(make):
    method = make()
    out = method(two_views())
    assert torch.equal(method.loss(*out["embeddings"]), out["loss"])
    assert [rows.requires_grad for rows in out["embeddings"]] == [True, True, False, False]


def test_the_teacher_follows_with_half_a_cosine_once_per_step():
    method = byol(momentum=0.9)
    for step in (0, 3, 3, 10):
        before = [parameter.clone() for parameter in method.teacher.parameters()]
        moves = step != method.teacher.step
        method.after_step(step, 10)
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * step / 10) + 1) / 2 if moves else 1.0
        for old, new, student in zip(before, method.teacher.parameters(), method.online.parameters(), strict=True):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)


def test_a_predictor_of_ones_own_is_called_after_the_step():
    class Halves(nn.Module):
        steps = 0

        def forward(self, rows):
            return rows * torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 1.0], dtype=rows.dtype)

        def after_step(self):
            self.steps += 1

    method, views = byol(predictor=Halves()), two_views()
    torch.testing.assert_close(method(views)["loss"], byol_formula(method, views))
    method.after_step(0, 10)
    assert method.predictor.steps == 1 and method.teacher.step == 0
    assert isinstance(byol(predictor=nn.Sequential()).predictor, nn.Sequential)  # an empty predictor is one too


def test_sizes_by_default_are_those_of_the_papers():
    online, follower = BYOL(resnet_small(), feature_dim=128), SimSiam(resnet_small(), feature_dim=128)
    assert (online.teacher.momentum, online.teacher.schedule) == (0.996, "cosine")
    maps = [
        [module for module in head if isinstance(module, nn.Linear)] for head in (online.projector, online.predictor)
    ]
    assert [[tuple(m.weight.shape) for m in head] for head in maps] == [
        [(4096, 128), (256, 4096)],
        [(4096, 256), (256, 4096)],
    ]
    assert len([module for module in follower.projector if isinstance(module, nn.Linear)]) == 3
    assert isinstance(follower.projector[-1], nn.BatchNorm1d)
    assert follower.predictor[0].weight.shape == (512, 2048) and isinstance(follower.predictor[-1], nn.Linear)


@pytest.mark.parametrize(("make", "words"), [(byol, VIEWS[0]), (simsiam, VIEWS[1])])
def test_anything_but_two_views_is_refused(make, words):
    method = make()
    assert isinstance(method, Method)
    with pytest.raises(ValueError, match=words):
        method([torch.rand(4, 1, 8, 8)] * 3)
