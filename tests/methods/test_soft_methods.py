# SPDX-License-Identifier: Apache-2.0
"""SCE, ReSSL and NNCLR against their papers' formulas, and their queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import NNCLR, SCE, Method, ReSSL
from sslkernels.models import ResNet

SIZES: dict[type[Method], dict[str, int]] = {
    SCE: {},
    ReSSL: {},
    NNCLR: {"projector_dim": 5, "hidden_dim": 8},
}


def small(kind: type[Method], backend: str | None = None) -> Any:
    options = {"feature_dim": 4, "projection_dim": 6, "queue_size": 10, **SIZES[kind]}
    made = kind(ResNet(1, (4,), (1,)), **options, backend=backend).double()
    for parameter in made.teacher.parameters() if hasattr(made, "teacher") else ():
        parameter.add_(0.1 * torch.randn_like(parameter))  # so that the teacher differs from its student
    return made


def two_views(n: int = 7) -> list[Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)]


def cross_entropy(targets: Tensor, logits: Tensor) -> Tensor:
    return -(targets.detach() * torch.log_softmax(logits, 1)).sum(1).mean()


def rows(method: Any, view: Tensor) -> Tensor:
    return F.normalize(method.projector(method.backbone(view)), dim=1)


def sce(method: SCE, views: list[Tensor]) -> Tensor:
    query, key, bank = rows(method, views[0]), F.normalize(method.teacher.module(views[1]), dim=1), method.queue.keys
    relations = torch.softmax(key @ bank.T / 0.07, 1)
    targets = torch.cat([torch.full((len(query), 1), 0.5), 0.5 * relations], 1)
    return cross_entropy(targets, torch.cat([(query * key).sum(1, keepdim=True), query @ bank.T], 1) / 0.1)


def ressl(method: ReSSL, views: list[Tensor]) -> Tensor:
    query, key, bank = rows(method, views[0]), F.normalize(method.teacher.module(views[1]), dim=1), method.queue.keys
    return cross_entropy(torch.softmax(key @ bank.T / 0.04, 1), query @ bank.T / 0.1)


def nnclr(method: NNCLR, views: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for view, other in (views, views[::-1]):
        nearest = F.normalize(method.queue.keys, dim=1)[(rows(method, view) @ method.queue.keys.T).argmax(1)]
        prediction = F.normalize(method.predictor(method.projector(method.backbone(other))), dim=1)
        total = total + F.cross_entropy(nearest @ prediction.T / 0.1, torch.arange(len(view))) / 2
    return total


FORMULAS: dict[type[Method], Callable[..., Tensor]] = {SCE: sce, ReSSL: ressl, NNCLR: nnclr}


@pytest.mark.parametrize("kind", FORMULAS)
def test_loss_and_gradients_are_those_of_the_paper(backend: str, kind: type[Method]) -> None:
    method, views = small(kind, backend), two_views()
    loss, exact = method(views)["loss"], FORMULAS[kind](method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_gradient_reaches_all_but_the_teacher(kind: type[Method]) -> None:
    method = small(kind)
    method(two_views())["loss"].backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad) == name.startswith("teacher."), name


@pytest.mark.parametrize("kind", FORMULAS)
def test_queues_take_the_rows_of_a_step_and_nothing_else(kind: type[Method]) -> None:
    method, written = small(kind), 0
    rings = {name: module.keys for name, module in method.named_children() if hasattr(module, "enqueue")}
    expected = {name: ring.clone() for name, ring in rings.items()}
    assert list(rings) == ["queue"]
    for step in range(3):
        for _ in range(2):  # two micro-batches of one step
            views = two_views(4)
            method(views)
            keys = method._newest[-1]
            assert not keys.requires_grad
            torch.testing.assert_close(keys.norm(dim=1), torch.ones(4, dtype=torch.float64))
            for place, key in enumerate(keys):
                expected["queue"][(written + place) % 10] = key
            written += 4
        method.eval()(two_views(4))  # the validation loss is computed in between
        method.train()
        assert len(method._newest) == 2
        method.after_step(step, 10)
        assert all(torch.equal(rings[name], expected[name]) for name in rings)
