# SPDX-License-Identifier: Apache-2.0
"""DINO against its paper's formula, pair by pair, and what it moves from step to step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sslkernels.methods import DINO
from sslkernels.models import ResNet


def dino(**options: Any) -> DINO:
    sizes = {"prototypes": 7, "hidden_dim": 8, "projection_dim": 5, **options}
    made = DINO(ResNet(1, (6,), (1,)), feature_dim=6, **sizes).double()
    for parameter in made.teacher.parameters():  # so that the teacher differs from its student
        parameter.data += 0.1 * torch.randn_like(parameter)
    made.center.center.copy_(0.1 * torch.randn(1, 7))
    return made


def crops(small: int = 2, n: int = 5) -> list[Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)] + [
        torch.rand(n, 1, 6, 6, dtype=torch.float64) for _ in range(small)
    ]


def logits(backbone: Any, head: Any, views: list[Tensor]) -> list[Tensor]:
    """Views of one size share BatchNorm's statistics, as they do in the official code."""
    groups = [torch.cat(views[:2]), torch.cat(views[2:])] if views[2:] else [torch.cat(views)]
    v, g = head.last_layer.weight_v, head.last_layer.weight_g
    prototypes = g * v / v.square().sum(1, keepdim=True).sqrt()
    out = []
    for group, count in zip(groups, (2, len(views) - 2), strict=False):
        bottleneck = head.mlp(backbone(group))
        unit = bottleneck / bottleneck.square().sum(1, keepdim=True).sqrt()
        out += (unit @ prototypes.T).chunk(count)
    return out


def formula(method: DINO, views: list[Tensor], temperature: float = 0.04) -> Tensor:
    student = logits(method.backbone, method.projector, views)
    teacher = [t.detach() for t in logits(*method.teacher.module, views[:2])]
    terms = []
    for place, t in enumerate(teacher):
        targets = torch.softmax((t - method.center.center) / temperature, 1)
        for other, s in enumerate(student):
            if other != place:
                terms.append(-(targets * torch.log_softmax(s / 0.1, 1)).sum(1).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("small", [0, 3])
@pytest.mark.parametrize("last", ["unit", "scaled"])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, small: int, last: str) -> None:
    method, views = dino(backend=backend, last=last), crops(small)
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    assert len(weights) == len(list(method.online.parameters())) - (last == "unit")
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_center_moves_once_a_step_by_the_teacher_that_saw_the_views() -> None:
    method, center = dino(center_momentum=0.8, final_momentum=0.999), None
    for step in range(2):
        means, before = [], method.center.center.clone()
        for _ in range(2):  # two micro-batches of one step
            views = crops()
            method(views)
            means.append(torch.cat(logits(*method.teacher.module, views[:2])).mean(0))
        method.eval()(crops())  # the validation loss is computed in between
        method.train()
        assert torch.equal(method.center.center, before)
        center = 0.8 * before + 0.2 * torch.stack(means).mean(0).detach()
        student = {name: weight.clone() for name, weight in method.projector.named_parameters()}
        teacher = {name: weight.clone() for name, weight in method.teacher.module[1].named_parameters()}
        method.after_step(step, 10)
        torch.testing.assert_close(method.center.center, center)
        momentum = 0.999 - (0.999 - 0.996) * (math.cos(math.pi * step / 10) + 1) / 2
        for name, weight in method.teacher.module[1].named_parameters():
            torch.testing.assert_close(weight, momentum * teacher[name] + (1 - momentum) * student[name])


def test_the_teacher_warms_up_and_the_next_loss_knows() -> None:
    method, views = dino(teacher_temperature=(0.04, 0.08), warmup=0.5), crops()
    found = []
    for step in range(10):
        found.append(method.teacher_temperature.item())
        torch.testing.assert_close(method.eval()(views)["loss"], formula(method, views, found[-1]), rtol=1e-5, atol=0)
        method.after_step(step, 10)
    torch.testing.assert_close(found, [0.04, 0.048, 0.056, 0.064, 0.072] + [0.08] * 5)
    again = dino(teacher_temperature=(0.04, 0.08), warmup=0.5)
    again.load_state_dict(method.state_dict())
    assert again.teacher_temperature == method.teacher_temperature == torch.tensor(0.08, dtype=torch.float64)
    endless = dino()
    endless.after_step(99, math.inf)
    assert endless.teacher_temperature.item() == pytest.approx(0.04)
    assert dino(warmup=0.0).teacher_temperature.item() == pytest.approx(0.07)


def test_prototypes_stand_still_at_first() -> None:
    method = dino(freeze=0.2)
    for step, total, still in ((0, 10, True), (1, 10, True), (2, 10, False), (0, math.inf, False)):
        method.zero_grad()
        method(crops())["loss"].backward()
        method.before_step(step, total)
        grads = [weight.grad for weight in method.projector.last_layer.parameters() if weight.requires_grad]
        assert [grad is None for grad in grads] == [still]
        assert all(weight.grad is not None for weight in method.projector.mlp.parameters())


def test_its_figures_tell_how_the_teacher_uses_prototypes() -> None:
    method, views = dino(), crops()
    out = method.eval()(views)
    targets = torch.softmax((logits(*method.teacher.module, views[:2])[0] - method.center.center) / 0.04, 1)
    entropy = -(targets * targets.log()).sum(1).mean()
    mean = targets.mean(0)
    expected = {
        "teacher_entropy": entropy, "largest_probability": targets.max(1).values.mean(),
        "effective_prototypes": (-(mean * mean.log()).sum()).exp(), "largest_share": mean.max(),
    }  # fmt: skip
    scores = method.scores(views[0], None)
    for name, value in expected.items():
        assert out[name].item() == pytest.approx(value.item(), rel=1e-4)
        assert scores[name] == pytest.approx(value.item(), rel=1e-4)
    last = method.teacher.module[1].last_layer
    last.weight_v.data.fill_(1), last.weight_g.data.fill_(1), method.center.center.zero_()
    alike = method.scores(views[0], None)
    assert alike["effective_prototypes"] == pytest.approx(7) and alike["teacher_entropy"] == pytest.approx(math.log(7))
