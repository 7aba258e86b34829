# SPDX-License-Identifier: Apache-2.0
"""Covariances at a layer are those of what it gives, and gradient norms those of what backward left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sslkernels.evaluation import gradient_norms, layer_covariances
from sslkernels.models import ResNet

IMAGES = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
VIEWS = [IMAGES + 0.1 * k * torch.rand_like(IMAGES) for k in range(3)]


def test_layers_have_the_covariances_of_what_they_give():
    encoder = ResNet(1, (4, 6), (1, 1)).train()
    found = layer_covariances(encoder, VIEWS)
    assert list(found) == ["stages.0", "stages.1"] and encoder.training
    assert not any(module._forward_hooks for module in encoder.modules())
    encoder.eval()
    with torch.no_grad():
        z = np.stack([encoder.stages[0](encoder.stem(view)).mean((2, 3)).double().numpy() for view in VIEWS], 1)
    between = np.cov(z.mean(1).T, bias=True)
    within = np.mean([np.cov(sample.T, bias=True) for sample in z], 0)
    np.testing.assert_allclose(found["stages.0"].between, np.linalg.eigvalsh(between)[::-1], atol=1e-10)
    np.testing.assert_allclose(found["stages.0"].within, np.linalg.eigvalsh(within)[::-1], atol=1e-10)
    assert found["stages.0"].ratio == pytest.approx(np.trace(between) / np.trace(within), rel=1e-6)


def test_a_layer_that_drops_the_direction_of_views_has_a_higher_ratio():
    first, last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    nn.init.eye_(first.weight)
    last.weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
    views = [torch.tensor([[3.0, x], [-3.0, x]]) for x in (1.0, -1.0)]
    found = layer_covariances(nn.Sequential(first, last), views)
    assert [each.ratio for each in found.values()] == [9.0, 36.0]


def test_gradient_norms_are_those_of_each_layer_itself():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)), nn.Linear(2, 2))
    assert gradient_norms(net) == {}
    net[1](net[0](torch.rand(5, 3))).square().sum().backward()
    found = gradient_norms(net)
    assert list(found) == ["0", "1.1"], "the last layer got no gradient"
    for name, layer in (("0", net[0]), ("1.1", net[1][1])):
        plain = np.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in layer.parameters()))
        assert found[name] == pytest.approx(plain, rel=1e-12)


def test_sparse_gradients_add_up_at_each_row():
    layer = nn.Embedding(5, 3, sparse=True)
    layer(torch.tensor([1, 1, 2])).sum().backward()
    assert gradient_norms(layer)[""] == pytest.approx(15**0.5)  # three numbers of 2 and three of 1


def test_complex_gradients_count_both_parts():
    layer = nn.Linear(2, 2, bias=False, dtype=torch.complex64)
    layer.weight.grad = torch.full((2, 2), 3 + 4j)
    assert gradient_norms(layer)[""] == pytest.approx(10)


def test_large_gradients_keep_a_finite_norm():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.grad = torch.full((1, 1), 1e30)
    assert gradient_norms(layer)[""] == pytest.approx(1e30)


@pytest.mark.parametrize(
    ("views", "words"), [(VIEWS[:1], "views has length 1"), ([IMAGES, IMAGES[:4]], r"views have \[30, 4\] samples")]
)
def test_views_have_to_match(views, words):
    with pytest.raises(ValueError, match=words):
        layer_covariances(ResNet(1, (4, 6), (1, 1)), views)
