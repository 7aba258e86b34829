# SPDX-License-Identifier: Apache-2.0
"""Mugs against its paper's three levels in float64, written out view by view and row by row."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import Mugs
from sslkernels.models import ResNet, ViT

SIZE, NEAR = 20, 3


def mugs(resnet: bool = False, **options: Any) -> Mugs:
    """Make a method whose teacher, centre and queues have moved."""
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, any_size=True)
    sizes = {"prototypes": 7, "hidden_dim": 6, "projection_dim": 5, "queue_size": SIZE, "neighbours": NEAR}
    made = Mugs(ResNet(1, (8,), (1,)) if resnet else vit, feature_dim=8, **sizes, **options).double()
    for parameter in made.teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    made(crops(1))
    made.after_step(3, 10)
    return made


def crops(small: int, n: int = 6) -> list[Tensor]:
    return [torch.rand(n, 1, side, side, dtype=torch.float64) for side in (8, 8, *[4] * small)]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def at_levels(network: nn.Sequential, views: list[Tensor], memory: Tensor) -> list[Tensor]:
    """All rows at the three levels, BatchNorm over all views together; and the mean patches."""
    backbone, group, instance, local, relation = network
    token = mean = torch.cat([backbone(view) for view in views])
    if isinstance(backbone, ViT):
        mean = torch.cat([backbone.tokens(view)[:, 1:].mean(1) for view in views])
    gathered = []
    for row in mean:
        near = (unit(memory) @ unit(row)).argsort(descending=True)[:NEAR]
        gathered.append(relation(torch.cat([row[None], memory[near]])[None])[0, 0])
    return [instance(token), local(torch.stack(gathered)), group(token) @ group.weight.T, mean]


def halves(large: list[Tensor], small: list[Tensor]) -> Tensor:
    means = [torch.stack(terms).mean() for terms in (large, small) if terms]
    return torch.stack(means).mean()


def formula(method: Mugs, views: list[Tensor]) -> Tensor:
    student = at_levels(method.online, views, method.memories[0].keys)
    teacher = [rows.detach() for rows in at_levels(method.teacher.module, views[:2], method.memories[1].keys)]
    losses = []
    for level in range(3):
        terms: tuple[list[Tensor], list[Tensor]] = [], []
        if level < 2:
            rows = unit(method.predictors[level](unit(student[level]))).chunk(len(views))
            keys = unit(teacher[level]).chunk(2)
        else:
            rows = (student[2] / 0.1).log_softmax(1).chunk(len(views))
            keys = torch.softmax((teacher[2] - method.center.center) / method.teacher_temperature, 1).chunk(2)
        for u in range(2):
            for v in range(len(views)):
                if u == v:
                    continue
                if level < 2:
                    others = (rows[v] @ method.queues[level].keys.T / 0.2).exp().sum(1)
                    right = ((rows[v] * keys[u]).sum(1) / 0.2).exp()
                    value = -(right / (right + others)).log().mean()
                else:
                    value = -(keys[u] * rows[v]).sum(1).mean()
                terms[v >= 2].append(value)
        losses.append(halves(*terms))
    return sum(losses) / 3


@pytest.mark.parametrize("small", [0, 3])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, small: int) -> None:
    method, views = mugs(backend=backend), crops(small)
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_queues_and_memories_get_what_the_step_saw() -> None:
    method, views = mugs(), crops(1)
    teacher = at_levels(copy.deepcopy(method.teacher.module), views[:2], method.memories[1].keys)
    student = at_levels(copy.deepcopy(method.online), views, method.memories[0].keys)
    before = [int(queue.position) for queue in (*method.queues, *method.memories)]
    method(views)
    assert [int(queue.position) for queue in (*method.queues, *method.memories)] == before == [12, 12, 6, 6]
    method.after_step(4, 10)
    for queue, rows in zip(method.queues, teacher, strict=False):
        wanted = unit(rows)
        torch.testing.assert_close(torch.cat([queue.keys[12:], queue.keys[:4]]), wanted)
    for memory, rows in zip(method.memories, (student[3], teacher[3]), strict=True):
        torch.testing.assert_close(memory.keys[6:12], rows[:6])
    fresh = mugs()
    fresh.load_state_dict(method.state_dict())
    for mine, theirs in zip((*fresh.queues, *fresh.memories), (*method.queues, *method.memories), strict=True):
        assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.position, theirs.position)


def test_the_mean_over_a_resnets_places_is_both() -> None:
    """In evaluation mode, where views do not meet in a BatchNorm."""
    method, views = mugs(resnet=True, batch_norm=True).eval(), crops(2)
    torch.testing.assert_close(method(views)["loss"], formula(method, views))


def test_evaluation_keeps_nothing() -> None:
    method = mugs().eval()
    method(crops(0))
    method.after_step(4, 10)
    assert int(method.queues[0].position) == 12


def test_a_backbone_without_a_class_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^Mugs: backbone has no class token; make it with one\.$"):
        Mugs(ViT((8, 8), 2, width=8, depth=1, heads=2), feature_dim=8)
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True)
    with pytest.raises(ValueError, match=r"^Mugs: neighbours is 9"):
        Mugs(vit, feature_dim=8, queue_size=8, neighbours=9)
