# SPDX-License-Identifier: Apache-2.0
"""MoCo v2, MoCo v3 and MoBY against their papers' formulas, and their queues."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.methods import Method, MoBY, MoCoV2, MoCoV3
from sslkernels.models import ResNet, resnet_small


def small(method: type[Method], **options) -> Method:
    made = method(ResNet(1, (4,), (1,)), feature_dim=4, projection_dim=6, **options).double()
    for parameter in made.teacher.parameters():  # so that the teacher differs from its student
        parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def moco_v2(**options) -> MoCoV2:
    return small(MoCoV2, **{"queue_size": 10, **options})


def moco_v3(**options) -> MoCoV3:
    return small(MoCoV3, hidden_dim=8, **options)


def moby(**options) -> MoBY:
    return small(MoBY, hidden_dim=8, **{"queue_size": 10, **options})


MAKERS = [moco_v2, moco_v3, moby]


def two_views(n: int = 7) -> list[Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)]


def encoded(method: Method, view: Tensor) -> Tensor:
    return method.projector(method.backbone(view))


def keys_of(method: Method, view: Tensor) -> Tensor:
    return F.normalize(method.teacher.module(view), dim=1).detach()


def against_queue(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """The papers' cross-entropy, in which class 0 is the positive."""
    query = F.normalize(query, dim=1)
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64))


def moco_v2_formula(method: MoCoV2, views: list[Tensor]) -> Tensor:
    return against_queue(encoded(method, views[0]), keys_of(method, views[1]), method.queue.keys, 0.2)


def moco_v3_formula(method: MoCoV3, views: list[Tensor]) -> Tensor:
    """Algorithm 1: ctr(q1, k2) + ctr(q2, k1) with 2 tau before the cross-entropy."""
    total = torch.zeros(())
    for view, other in (views, views[::-1]):
        query = F.normalize(method.predictor(encoded(method, view)), dim=1)
        logits = query @ keys_of(method, other).T / 0.2
        total = total + 2 * 0.2 * F.cross_entropy(logits, torch.arange(len(view)))
    return total


def moby_formula(method: MoBY, views: list[Tensor]) -> Tensor:
    queries = [method.predictor(encoded(method, view)) for view in views]
    keys = [keys_of(method, view) for view in views]
    first = against_queue(queries[0], keys[1], method.queue1.keys, 0.2)
    return first + against_queue(queries[1], keys[0], method.queue0.keys, 0.2)


@pytest.mark.parametrize(
    ("make", "formula"), [(moco_v2, moco_v2_formula), (moco_v3, moco_v3_formula), (moby, moby_formula)]
)
def test_loss_and_gradients_are_those_of_the_paper(backend, make, formula):
    method, views = make(backend=backend), two_views()
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", MAKERS)
def test_gradient_reaches_all_but_the_teacher(make):
    method = make()
    method(two_views())["loss"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            # A layer before a BatchNorm without weights gets no gradient along its own bias or scale.
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("make", MAKERS)
def test_embeddings_are_those_of_the_loss(make):
    method = make()
    out = method(two_views())
    assert torch.equal(method.loss(*out["embeddings"]), out["loss"])
    half = len(out["embeddings"]) // 2
    assert [rows.requires_grad for rows in out["embeddings"]] == [True] * half + [False] * half


@pytest.mark.parametrize(("make", "rises"), [(moco_v2, False), (moco_v3, True), (moby, True)])
def test_the_teacher_follows_by_its_schedule_once_per_step(make, rises):
    method = make(momentum=0.9)
    for step in (0, 3, 3, 10):
        before = [parameter.clone() for parameter in method.teacher.parameters()]
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * step / 10) + 1) / 2 if rises else 0.9
        if step == method.teacher.step:
            momentum = 1.0
        method.after_step(step, 10)
        for old, new, student in zip(before, method.teacher.parameters(), method.online.parameters(), strict=True):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)


@pytest.mark.parametrize("size", [5, 10, 14, 30])
@pytest.mark.parametrize("make", [moco_v2, moby])
def test_queues_receive_the_keys_of_a_step_and_nothing_else(make, size):
    method = make(queue_size=size)
    queues = [method.queue] if make is moco_v2 else [method.queue0, method.queue1]
    rings, written = [queue.keys.clone() for queue in queues], 0
    for step in range(4):
        pending = []
        for _ in range(2):  # two micro-batches of one step
            pending.append(method(two_views(4))["embeddings"][-len(queues) :])
            assert all(torch.equal(queue.keys, ring) for queue, ring in zip(queues, rings, strict=True))
        method.eval()(two_views(4))  # the validation loss is computed in between
        method.train()
        method.after_step(step, 10)
        for queue, ring, keys in zip(queues, rings, zip(*pending, strict=True), strict=True):
            for place, key in enumerate(torch.cat(keys)):
                ring[(written + place) % size] = key
            assert torch.equal(queue.keys, ring)
            torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(size, dtype=torch.float64))
        written += 8
        method.after_step(step, 10)  # no keys came since the last step
        assert all(torch.equal(queue.keys, ring) for queue, ring in zip(queues, rings, strict=True))


@pytest.mark.parametrize("make", MAKERS)
def test_a_saved_state_goes_on_alike(make):
    method = make()
    method(two_views())
    method.after_step(0, 10)
    other = make()
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    views = two_views()
    for each in (method, other):
        each(views)
        each.after_step(1, 10)
    for name, value in method.state_dict().items():
        assert (
            value == other.state_dict()[name]
            if name.endswith("extra_state")
            else torch.equal(value, other.state_dict()[name])
        ), name


def test_sizes_by_default_are_those_of_the_papers():
    v2, v3, by = (method(resnet_small(), feature_dim=128) for method in (MoCoV2, MoCoV3, MoBY))
    assert v2.queue.keys.shape == (65536, 128) and v2.temperature == 0.2
    assert (v2.teacher.momentum, v2.teacher.schedule) == (0.999, "constant")
    assert [type(module) for module in v2.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert by.queue0.keys.shape == by.queue1.keys.shape == (4096, 256)
    for method, layers in ((v3, 3), (by, 2)):
        assert (method.teacher.momentum, method.teacher.schedule, method.temperature) == (0.99, "cosine", 0.2)
        for head, maps in ((method.projector, layers), (method.predictor, 2)):
            shapes = [module.weight.shape for module in head if isinstance(module, nn.Linear)]
            assert len(shapes) == maps and shapes[-1] == (256, 4096)
            assert isinstance(head[-1], nn.BatchNorm1d) == (method is v3)


@pytest.mark.parametrize(("make", "name"), list(zip(MAKERS, ("MoCoV2", "MoCoV3", "MoBY"), strict=True)))
def test_anything_but_two_views_is_refused(make, name):
    with pytest.raises(ValueError, match=f"{name}: 1 views came; pass two views"):
        make()([torch.rand(4, 1, 8, 8)])
