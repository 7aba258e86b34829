# SPDX-License-Identifier: Apache-2.0
"""ProtoCLR against its paper's formula."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sslkernels.methods import ProtoCLR
from sslkernels.models import ResNet


def formula(support: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of a softmax of negative squared distances; each image's queries stand N rows apart."""
    terms = []
    for place, query in enumerate(queries):
        closeness = -torch.stack([(query - prototype).square().sum() for prototype in support])
        terms.append(closeness.exp().sum().log() - closeness[place % len(support)])
    return torch.stack(terms).mean()


def test_loss_and_gradients_are_those_of_the_paper():
    method = ProtoCLR(ResNet(1, (6,), (1,)), feature_dim=6).double()
    views = [torch.rand(5, 1, 8, 8, dtype=torch.float64) for _ in range(4)]
    support, *queries = (method.backbone(view) for view in views)
    loss, exact = method(views)["loss"], formula(support, torch.cat(queries))
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("away", [0.0, 1000.0])
def test_prototypes_and_queries_get_the_gradient_of_distances_wherever_they_lie(backend, away):
    """Products of rows that lie away from the origin have no digits left for what differs between them."""
    method = ProtoCLR(nn.Flatten(), feature_dim=7, backend=backend)
    rows = [(away + torch.randn(4 * times, 7)).requires_grad_() for times in (1, 3)]
    exact = [row.detach().double().requires_grad_() for row in rows]
    (loss := method.loss(*rows)).backward()
    (expected := formula(*exact)).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    for row, double in zip(rows, exact, strict=True):
        torch.testing.assert_close(row.grad.double(), double.grad, rtol=1e-4, atol=1e-5)


def test_autocast_does_not_round_distances():
    method = ProtoCLR(nn.Flatten(), feature_dim=7)
    rows = [3 * torch.randn(4 * times, 7) for times in (1, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = method.loss(*rows)
    assert torch.equal(rounded, method.loss(*rows))


def test_four_views_are_one_prototype_and_three_queries():
    method = ProtoCLR(ResNet(1, (6,), (1,)), feature_dim=6)
    views = [torch.rand(4, 1, 8, 8) for _ in range(4)]
    support, queries = copy.deepcopy(method)(views)["embeddings"]
    assert support.shape == (4, 6) and queries.shape == (12, 6)
    with pytest.raises(ValueError, match="ProtoCLR: 2 views came; pass 4 views of the same samples"):
        method(views[:2])
