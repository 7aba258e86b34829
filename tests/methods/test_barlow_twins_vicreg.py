# SPDX-License-Identifier: Apache-2.0
"""Barlow Twins and VICReg against their papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import BarlowTwins, Method, VICReg
from sslkernels.models import resnet_small

METHODS = pytest.mark.parametrize("method", [BarlowTwins, VICReg])


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix - torch.diag(matrix.diagonal())


def test_barlow_twins_is_equation_one_of_the_paper():
    method = BarlowTwins(nn.Flatten(), feature_dim=64, projection_dim=9, lambd=0.1).double()
    views = torch.rand(5, 1, 8, 8).double(), torch.rand(5, 1, 8, 8).double()
    z0, z1 = (method.projector(view.flatten(1)) for view in views)
    standard = [(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (z0, z1)]
    c = standard[0].T @ standard[1] / 5
    exact = (1 - c.diagonal()).square().sum() + 0.1 * off_diagonal(c).square().sum()
    torch.testing.assert_close(method(views)["loss"], exact)


def test_vicreg_is_equation_six_of_the_paper():
    method = VICReg(nn.Flatten(), feature_dim=64, projection_dim=9, sim=2.0, var=3.0, cov=4.0).double()
    views = torch.rand(5, 1, 8, 8).double(), torch.rand(5, 1, 8, 8).double()
    z0, z1 = (method.expander(view.flatten(1)) for view in views)
    exact = 2 * (z0 - z1).square().mean()
    for z in (z0, z1):
        exact = exact + 3 * (1 - (z.var(0) + 1e-4).sqrt()).clamp_min(0).mean() / 2
        exact = exact + 4 * off_diagonal(z.T.cov()).square().sum() / 9
    torch.testing.assert_close(method(views)["loss"], exact)


@METHODS
def test_gradient_reaches_every_parameter_through_either_backend(method, backend):
    learner = method(resnet_small(), feature_dim=128, projection_dim=32, backend=backend)
    learner((torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)))["loss"].backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())
    assert learner.backbone.stem[0].weight.grad.any()


@METHODS
def test_backend_and_embeddings_are_those_of_the_loss(method):
    learner = method(resnet_small(), feature_dim=128, projection_dim=32)
    out = learner((torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)))
    torch.testing.assert_close(learner.loss(*out["embeddings"]), out["loss"])
    learner.backend = "nowhere"
    with pytest.raises(ValueError, match="backend is 'nowhere'"):
        learner.loss(*out["embeddings"])


@METHODS
def test_projection_has_three_layers_of_the_papers_width(method):
    assert issubclass(method, Method)
    head = list(method(nn.Flatten(), feature_dim=4).children())[-1]
    assert [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)] == [
        (4, 8192),
        (8192, 8192),
        (8192, 8192),
    ]
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in head) == 2
    assert all(layer.bias is None for layer in head if isinstance(layer, nn.Linear))


@METHODS
def test_anything_but_two_views_is_refused(method):
    with pytest.raises(ValueError, match=f"{method.__name__}: 3 views came; pass two views"):
        method(nn.Flatten(), feature_dim=64, projection_dim=8)([torch.rand(4, 1, 8, 8)] * 3)
