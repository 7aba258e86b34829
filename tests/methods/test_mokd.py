# SPDX-License-Identifier: Apache-2.0
"""MOKD against its official code's formulas in float64, written out network by network and view by view."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import MOKD
from sslkernels.models import ResNet, ViT
from sslkernels.models.vit import positions_between


def mokd(**options: Any) -> MOKD:
    """Make a method whose teachers and centres have moved."""
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, any_size=True)
    sizes = {"prototypes": 7, "hidden_dim": 6, "projection_dim": 5, "search_depth": 1}
    made = MOKD(vit, feature_dim=8, second=ResNet(1, (4, 6), (1, 1)), **sizes, **options).double()
    for teacher in (made.teacher, made.other.teacher):
        for parameter in teacher.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    made(crops(1))
    made.after_step(3, 10)
    return made


def crops(small: int, n: int = 6) -> list[Tensor]:
    return [torch.rand(n, 1, side, side, dtype=torch.float64) for side in (8, 8, *[4] * small)]


def places(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    if isinstance(network, ViT):
        tokens = network.tokens(images)
        return tokens[:, 0], tokens[:, 1:], (images.shape[2] // 2, images.shape[3] // 2)
    grid = network.feature_grid(images)
    return grid.flatten(2).mean(2), grid.flatten(2).transpose(1, 2), tuple(grid.shape[2:])


def transformed(search: nn.Module, tokens: Tensor, grid: tuple[int, int], query: Tensor | None = None) -> Tensor:
    """Logits of the transformer; a query stands before the places and is not averaged."""
    x = search.reduce(tokens)
    x = x + positions_between((4, 4), grid, x[0])
    if query is not None:
        x = torch.cat([query.unsqueeze(1), x], 1)
    x = search.encode(x)
    return (x if query is None else x[:, 1:]).mean(1) @ search.last_layer.weight.T


def dino(student: list[Tensor], teacher: list[Tensor], center: Tensor) -> Tensor:
    terms = [
        -(((teacher[u] - center) / 0.043).softmax(1).detach() * (student[v] / 0.1).log_softmax(1)).sum(1).mean()
        for u in range(2)
        for v in range(len(student))
        if u != v
    ]
    return sum(terms) / len(terms)


def formula(method: MOKD, views: list[Tensor], weight: float) -> Tensor:
    sides, n = (method, method.other), len(views[0])
    large, small = torch.cat(views[:2]), torch.cat(views[2:]) if views[2:] else None
    students, teachers = [], []
    for side in sides:
        features, logits, query = [], [], None
        for images in (large, small):
            if images is not None:
                feature, tokens, grid = places(side.backbone, images)
                features.append(feature)
                logits.append(transformed(side.search, tokens, grid))
                query = feature if side is method else side.search.reduce(tokens).mean(1)
        first = side.projector(torch.cat(features)) @ side.projector.weight.T
        students.append((first.split(n), torch.cat(logits).split(n), query.detach()))
        backbone, head, search = side.teacher.module
        feature, tokens, grid = places(backbone, large)
        found = head(feature) @ head.weight.T, transformed(search, tokens, grid)
        teachers.append((found[0].split(n), found[1].split(n), search, tokens[:n], grid))
    loss: Tensor | float = 0.0
    for m, other in ((0, 1), (1, 0)):
        rows, searched, query = students[m]
        loss = loss + dino(rows, teachers[m][0], sides[m].center.center)
        loss = loss + dino(searched, teachers[m][1], sides[m].search_center.center)
        loss = loss + weight * dino(rows, teachers[other][0], sides[other].center.center)
        if small is not None:
            *_, search, tokens, grid = teachers[other]
            found = torch.cat([transformed(search, tokens, grid, part) for part in query.split(n)])
            target = (found / 0.043).softmax(1).detach()
            loss = loss - weight * (target * (torch.cat(searched[2:]) / 0.1).log_softmax(1)).sum(1).mean()
    return loss


@pytest.mark.parametrize(("small", "weight"), [(0, 1.0), (2, 0.7)])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, small: int, weight: float) -> None:
    method, views = mokd(backend=backend, cross_weight=weight), crops(small)
    for side in (method, method.other):
        side.teacher_temperature.fill_(0.043)
    loss, exact = method(views)["loss"], formula(method, views, weight)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_teachers_and_centres_of_both_networks_move_and_are_saved() -> None:
    method = mokd()
    moving = [
        f"{side}{name}"
        for side in ("", "other.")
        for name in ("center.center", "search_center.center", "teacher.module.2.last_layer.weight_v")
    ]
    before = {name: method.state_dict()[name].clone() for name in moving}
    method(crops(1))
    assert all(torch.equal(method.state_dict()[name], value) for name, value in before.items())
    method.after_step(4, 10)
    assert not any(torch.equal(method.state_dict()[name], value) for name, value in before.items())
    fresh = mokd()
    fresh.load_state_dict(method.state_dict())
    assert all(torch.equal(fresh.state_dict()[name], method.state_dict()[name]) for name in moving)
    assert method.teacher_temperature == method.other.teacher_temperature > 0.04


def test_prototypes_of_all_four_heads_stand_still_at_the_begin() -> None:
    method = mokd(freeze=0.5)
    method(crops(1))["loss"].backward()
    method.before_step(4, 10)
    for side in (method, method.other):
        assert len(side.last_layers) == 2
        assert all(weight.grad is None for layer in side.last_layers for weight in layer.parameters())
        assert side.projector.mlp[0].weight.grad is not None


def test_it_says_how_both_teachers_use_prototypes() -> None:
    method = mokd()
    names = {"teacher_entropy", "largest_probability", "effective_prototypes", "largest_share"}
    names |= {f"second_{name}" for name in names}
    assert names == set(method.eval().scores(crops(0)[0], None)) and names < set(method(crops(0)))


def test_other_networks_are_refused() -> None:
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True)
    with pytest.raises(TypeError, match=r"^MOKD: backbone is .*; pass a sslkernels.models.ViT"):
        MOKD(ResNet(1, (6,), (1,)), feature_dim=6)
    with pytest.raises(ValueError, match=r"^MOKD: backbone has no class token; make it with one\.$"):
        MOKD(ViT((8, 8), 2, width=8, depth=1, heads=2), feature_dim=8)
    with pytest.raises(TypeError, match=r"^MOKD: second is .*; pass a sslkernels.models.ResNet"):
        MOKD(vit, feature_dim=8, second=nn.Flatten(), prototypes=7)
