# SPDX-License-Identifier: Apache-2.0
"""FASSL is the formula of its docstring in float64, and its shares are those of the rows of late."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import FASSL


def fassl(**options: Any) -> FASSL:
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    made = FASSL(backbone, feature_dim=16, prototypes=7, hidden_dim=8, projection_dim=5, **options).double()
    made.frequencies.shares.copy_(torch.tensor([0.0, 0.3, 1e-9, 0.1, 0.2, 0.15, 0.25]))  # two are rarer than counts
    return made


def views(count: int, n: int = 9) -> list[Tensor]:
    return [torch.rand(n, 1, side, side, dtype=torch.float64) for side in (8, 8, 4, 4)[:count]]


@pytest.mark.parametrize(("count", "rebalance"), [(2, 0.5), (4, 1.5), (3, 0.0)])
def test_loss_and_gradients_are_the_formula_s(backend: str, count: int, rebalance: float) -> None:
    method, images = fassl(backend=backend, rebalance=rebalance, tail=0.6, prior=0.7), views(count)
    loss = method(images)["loss"]
    z = method.projector(torch.cat([method.backbone(image) for image in images]))
    rows = (z / z.norm(dim=1, keepdim=True)).chunk(count)
    p = [torch.softmax(row @ method.prototypes.weight.T / 0.1, 1) for row in rows]
    exact = torch.zeros((), dtype=torch.float64)
    for u in range(2):
        logits = (rows[u] @ method.prototypes.weight.T).detach()
        shares = torch.tensor([0.01 / 7, 0.3, 0.01 / 7, 0.1, 0.2, 0.15, 0.25])
        weight = shares.double()[logits.argmax(1)] ** -rebalance
        for v in range(count):
            if v != u:
                crossed = -(torch.softmax(logits / 0.05, 1) * p[v].log()).sum(1)
                exact = exact + (weight * crossed).sum() / weight.sum() / (2 * (count - 1))
    wanted = torch.arange(1.0, 8).double() ** -0.6
    wanted = wanted / wanted.sum()
    exact = exact + 0.7 * (wanted * (wanted / torch.cat(p).mean(0)).log()).sum()
    # The shares that are wanted are kept in float32.
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=1e-7)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_shares_follow_the_nearest_prototypes_of_both_views_after_a_step_and_are_saved() -> None:
    method = fassl(share_momentum=0.9)
    before = method.frequencies.shares.clone()
    batches = [views(2), views(2)]
    for batch in batches:
        rows = method(batch)["embeddings"]
        method.loss(*rows)
        method.eval()
        method(batch)
        method.train()
        assert torch.equal(method.frequencies.shares, before)
    z = [method.projector(torch.cat([method.backbone(image) for image in batch])) for batch in batches]
    found = (torch.cat(z) @ method.prototypes.weight.T).argmax(1)
    method.after_step(0, 10)
    shares = torch.bincount(found, minlength=7)[None] / len(found)
    torch.testing.assert_close(method.frequencies.shares, 0.9 * before + 0.1 * shares)
    assert torch.allclose(method.prototypes.weight.norm(dim=1), torch.ones(7, dtype=torch.float64))
    other = fassl()
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.frequencies.shares, method.frequencies.shares)
