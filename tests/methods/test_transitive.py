# SPDX-License-Identifier: Apache-2.0
"""Transitive invariance against its loss, written triplet by triplet."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.methods import Transitive
from sslkernels.models import ResNet

N, MARGIN = 7, 0.4


def formula(features: Tensor, z0: Tensor, z1: Tensor, neighbours: int, negatives: int) -> Tensor:
    features, now, later = (F.normalize(rows, dim=1) for rows in (features.detach(), z0, z1))

    def others(i: int) -> list[int]:
        """All things but i, those that look most like it first."""
        return [j for j in (features @ features[i]).argsort(descending=True).tolist() if j != i]

    means = []
    for anchors, pool, of_itself in ((now, later, True), (now, now, False), (now, later, False), (later, later, False)):
        for i, anchor in enumerate(anchors):
            near, rest = others(i)[:neighbours], others(i)[neighbours:]
            hardest = sorted(rest, key=lambda j: -float((pool[j] @ anchor).detach()))[:negatives]
            triplets = [
                torch.relu(pool[n] @ anchor - pool[p] @ anchor + MARGIN)
                for p in ([i] if of_itself else near)
                for n in hardest
            ]
            means.append(torch.stack(triplets).mean())
    return torch.stack(means).mean()


@pytest.mark.parametrize(("neighbours", "negatives"), [(1, 3), (2, 2), (5, 3)])
def test_loss_and_gradients_are_those_of_the_triplets(backend: str, neighbours: int, negatives: int) -> None:
    options = {"projection_dim": 3, "neighbours": neighbours, "negatives": negatives, "margin": MARGIN}
    method = Transitive(ResNet(1, (4,), (1,)), feature_dim=4, **options, backend=backend).double()
    views = [torch.rand(N, 1, 8, 8, dtype=torch.float64) for _ in range(2)]
    looks = [method.backbone(view) for view in views]
    # Five neighbours leave one other thing; so three are taken, and three negatives.
    exact = formula(looks[0], *map(method.projector, looks), min(neighbours, N - 1 - negatives), negatives)
    loss = method(views)["loss"]
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)
    assert all(parameter.grad is None for parameter in weights) and loss > 0


def test_two_things_have_no_neighbour_and_no_negative() -> None:
    method = Transitive(nn.Flatten(), feature_dim=64)
    with pytest.raises(ValueError, match="Transitive: the views have 2 samples; pass 3 or more"):
        method([torch.rand(2, 1, 8, 8)] * 2)
