# SPDX-License-Identifier: Apache-2.0
"""SSTerrain against its formula, and how its triplets are drawn and its clusters begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import SSTerrain
from sslkernels.methods.ss_terrain import triplets

INDEX = torch.tensor([4, 0, 7, 2, 3, 8])


class Flat(nn.Sequential):
    feature_dim = 5

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(12, 5))


def ss_terrain(**options: Any) -> SSTerrain:
    torch.manual_seed(4)
    encoders: dict[str, nn.Module] = {"speech": Flat()}
    sizes = {"samples": 9, "clusters": 3, "projection_dim": 4}
    return SSTerrain(nn.Flatten(), feature_dim=7, encoders=encoders, **sizes, **options).double()


def test_loss_and_gradients_are_the_formula_s(backend: str) -> None:
    method = ss_terrain(margin=0.3, told=0.6, backend=backend)
    method.clusters.targets.copy_(torch.tensor([[0, 1, 2, -1, 1, 0, 0, 2, 1]]))
    looks = torch.rand(6, 7, dtype=torch.float64) * 3.0 ** torch.arange(6)[:, None]  # cosines compare them
    sounds = torch.rand(6, 1, 3, 4, dtype=torch.float64)
    torch.manual_seed(7)
    loss = method([looks], index=INDEX, speech=sounds)["loss"]
    torch.manual_seed(7)
    positive, negative = triplets(F.normalize(looks, dim=1))
    rows = F.normalize(method.projector(method.encoders["speech"](sounds)), dim=1)
    exact = torch.zeros(()).double()
    for i, label in enumerate(method.clusters.targets[0][INDEX].tolist()):
        apart = torch.dist(rows[i], rows[positive[i]]) ** 2 - torch.dist(rows[i], rows[negative[i]]) ** 2
        exact = exact + torch.clamp(apart + 0.3, min=0) / 6
        if label >= 0:
            exact = exact - 0.6 * method.classifier(looks[i]).log_softmax(0)[label] / 6
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)
    method.after_step(0, 10)
    torch.testing.assert_close(method.bank.rows[INDEX], rows.detach())


def test_triplets_are_others_and_the_positive_looks_more_alike() -> None:
    looks = F.normalize(torch.randn(5, 3), dim=1)
    drawn = torch.stack([torch.stack(triplets(looks)) for _ in range(80)])  # (80, 2, 5)
    for row in range(5):
        pairs = {tuple(pair) for pair in drawn[:, :, row].tolist()}
        assert len(pairs) == 6  # of four others, each two in one order
        for near, far in pairs:
            assert len({row, near, far}) == 3 and looks[row] @ looks[near] >= looks[row] @ looks[far]
    assert [each.tolist() for each in triplets(looks[:2])] == [[1, 0], [1, 0]]


def test_clusters_of_sounds_keep_their_numbers_from_epoch_to_epoch() -> None:
    method = ss_terrain()
    method.before_epoch(lambda: pytest.fail("nobody needs features"), 0, 3)
    assert (method.clusters.targets == -1).all()
    rows = F.one_hot(torch.arange(9) % 3, 4).double()
    method.bank.rows.copy_(rows)
    method.before_epoch(lambda: pytest.fail("nobody needs features"), 1, 3)
    first = method.clusters.targets.clone()
    assert len(first.unique()) == 3 and torch.equal(first[:, :3].repeat(1, 3), first)
    method.before_epoch(lambda: pytest.fail("nobody needs features"), 2, 3)
    assert torch.equal(method.clusters.targets, first)
