# SPDX-License-Identifier: Apache-2.0
"""DenseCL against its paper's formula, its matches against a search by hand, and its two queues."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.methods import DenseCL
from sslkernels.models import ResNet


def dense_cl(**options) -> DenseCL:
    arguments = {"projection_dim": 4, "queue_size": 7, "dense_queue_size": 9, **options}
    return DenseCL(ResNet(1, (5, 6), (1, 1)), feature_dim=6, **arguments).double()


def drawn(rows: int = 3) -> list[Tensor]:
    return [torch.rand(rows, 1, 6, 4, dtype=torch.float64) for _ in range(2)]


def cross_entropy(query: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    logits = torch.stack([positive, *negatives]) @ (query / query.norm()) / temperature
    return logits.logsumexp(0) - logits[0]


def formula(method: DenseCL, views: list[Tensor]) -> Tensor:
    backbone, projector = method.teacher.module
    grids = method.backbone.stages(method.backbone.stem(views[0])), backbone.stages(backbone.stem(views[1]))
    whole, places = [], []
    for grid0, grid1 in zip(*grids, strict=True):
        query, key = method.projector(grid0.mean((1, 2))), projector(grid1.mean((1, 2)))
        whole.append(cross_entropy(query, key / key.norm(), method.queue.keys, method.temperature))
        cells0, cells1 = ([grid[:, i, j] for i in range(3) for j in range(2)] for grid in (grid0, grid1))
        for cell in cells0:
            best = max(cells1, key=lambda other: F.cosine_similarity(cell, other, dim=0).item())
            key = method.dense_teacher.module(best)
            query = method.dense_projector(cell)
            places.append(cross_entropy(query, key / key.norm(), method.dense_queue.keys, method.temperature))
    return (1 - method.dense) * torch.stack(whole).mean() + method.dense * torch.stack(places).mean()


def test_loss_and_gradients_are_those_of_the_paper(backend: str) -> None:
    method, views = dense_cl(dense=0.3, backend=backend), drawn()
    with torch.no_grad():  # a teacher of its own, as later in the training
        for weight in (*method.teacher.parameters(), *method.dense_teacher.parameters()):
            weight.add_(0.1 * torch.randn_like(weight))
    loss = method(views)["loss"]
    exact = formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights)
    for one, other in zip(found, torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient.any() for gradient in found)


def test_a_grid_that_was_turned_finds_its_places() -> None:
    places = torch.eye(6).double()[None] + 0.1 * torch.rand(2, 6, 6, dtype=torch.float64)
    order = torch.stack([torch.randperm(6), torch.randperm(6)])
    moved = torch.stack([rows[each] for rows, each in zip(places, order, strict=True)]) * 7
    assert torch.equal(DenseCL.match(places, moved), order.argsort(1))


def test_queues_and_teachers_move_after_a_step_and_in_training_alone() -> None:
    method, views = dense_cl(momentum=0.25), drawn()
    starts = method.queue.keys.clone(), method.dense_queue.keys.clone()
    key = method(views)["embeddings"][1]
    backbone = method.teacher.module[0]
    rows = method.dense_teacher.module(backbone.stages(backbone.stem(views[1])).flatten(2).mT).mean(1)
    assert torch.equal(method.queue.keys, starts[0]) and torch.equal(method.dense_queue.keys, starts[1])
    with torch.no_grad():
        method.dense_projector[0].weight.add_(1)
    before = method.dense_teacher.module[0].weight.clone()
    method.after_step(0, 10)
    torch.testing.assert_close(method.queue.keys, torch.cat([key, starts[0][3:]]))
    torch.testing.assert_close(method.dense_queue.keys, torch.cat([F.normalize(rows, dim=1), starts[1][3:]]))
    torch.testing.assert_close(method.dense_teacher.module[0].weight, before + 0.75)
    seen = method.dense_queue.keys.clone()
    method.eval()(views)
    method.after_step(1, 10)
    assert torch.equal(method.dense_queue.keys, seen)


def test_a_backbone_without_places_is_refused() -> None:
    with pytest.raises(TypeError, match="DenseCL: backbone is a Flatten; pass a sslkernels.models.ResNet, which gives"):
        DenseCL(nn.Flatten(), feature_dim=4)
