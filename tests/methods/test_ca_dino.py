# SPDX-License-Identifier: Apache-2.0
"""CA-DINO is DINO's loss of views of two samples of a cluster, and a cosine term; and who is whose partner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import CADINO
from sslkernels.methods.ca_dino import partners
from sslkernels.models import DINOHead


def ca_dino(**options: Any) -> CADINO:
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9, 6))
    sizes = {"prototypes": 7, "hidden_dim": 8, "projection_dim": 5}
    made = CADINO(backbone, feature_dim=6, samples=20, clusters=4, **sizes, **options).double()
    for parameter in made.teacher.parameters():  # so that the teacher differs from its student
        parameter.data += 0.1 * torch.randn_like(parameter)
    made.center.center.copy_(0.1 * torch.randn(1, 7))
    return made


def logits(head: DINOHead, x: Tensor) -> Tensor:
    v, g = head.last_layer.weight_v, head.last_layer.weight_g
    unit = head.mlp(x) / head.mlp(x).norm(dim=1, keepdim=True)
    return unit @ (g * v / v.norm(dim=1, keepdim=True)).T


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(1) / x.norm(dim=1) / y.norm(dim=1)


def test_loss_and_gradients_are_the_formula_s(backend: str) -> None:
    method = ca_dino(backend=backend, cosine=0.7)
    method.clusters.targets.copy_(torch.arange(20) % 2)  # 0, 2, 4 and 1, 3, 5: each has two others
    views = [torch.rand(6, 1, 4, length, dtype=torch.float64) for length in (9, 9, 5, 5)]
    torch.manual_seed(5)
    loss = method(views, index=torch.arange(6))["loss"]
    torch.manual_seed(5)
    other = partners(torch.arange(6) % 2)
    mixed = [views[0], views[1][other], views[2], views[3][other]]
    features = [method.backbone(view) for view in mixed]
    backbone, head = method.teacher.module
    seen = [backbone(view).detach() for view in mixed[:2]]
    targets = [torch.softmax((logits(head, each).detach() - method.center.center) / 0.04, 1) for each in seen]
    terms = [
        -(target * torch.log_softmax(logits(method.projector, each) / 0.1, 1)).sum(1).mean()
        for place, target in enumerate(targets) for view, each in enumerate(features) if view != place
    ]  # fmt: skip
    apart = [1 - cosine(features[0], seen[1]).mean(), 1 - cosine(features[1], seen[0]).mean()]
    exact = sum(terms) / len(terms) + 0.7 * sum(apart) / 2
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_partners_are_others_of_the_cluster_and_each_of_them_in_turn() -> None:
    cluster = torch.tensor([3, -1, 0, 3, 0, 3, -1, 2])
    drawn = torch.stack([partners(cluster) for _ in range(60)])
    assert [set(column.tolist()) for column in drawn.T] == [{3, 5}, {1}, {4}, {0, 5}, {2}, {0, 3}, {6}, {7}]


def test_clusters_are_those_of_the_features_from_the_first_epoch_that_has_any() -> None:
    method = ca_dino(cluster_from=2)
    label = torch.arange(20) % 4
    features = torch.eye(6)[label] + 0.01 * torch.randn(20, 6)
    for epoch in range(2):
        method.before_epoch(lambda: pytest.fail("nobody needs features yet"), epoch, 9)
    assert (method.clusters.targets == -1).all()
    method.before_epoch(lambda: features.double(), 2, 9)
    found = method.clusters.targets[0]
    assert len({(int(one), int(other)) for one, other in zip(label, found, strict=True)}) == 4 == len(found.unique())
    other = ca_dino()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.clusters.targets, method.clusters.targets)
