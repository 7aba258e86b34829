# SPDX-License-Identifier: Apache-2.0
"""MLS against its formula, written with the matrix of all labels, and its two queues."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import MLS
from sslkernels.models import ResNet

N, QUEUE, POSITIVES = 5, 9, 3


def mls(backend: str | None = None) -> MLS:
    options = {"feature_dim": 4, "hidden_dim": 8, "projection_dim": 6, "queue_size": QUEUE, "positives": POSITIVES}
    method = MLS(ResNet(1, (4,), (1,)), **options, temperature=0.3, backend=backend).double()
    for parameter in method.teacher.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # so that the teacher differs from its student
    return method


def two_views() -> list[Tensor]:
    return [torch.rand(N, 1, 8, 8, dtype=torch.float64) for _ in range(2)]


def formula(method: MLS, views: list[Tensor]) -> Tensor:
    teacher_backbone, teacher_projector = method.teacher.module
    looks = F.normalize(method.backbone(views[0]), dim=1).detach()
    query = F.normalize(method.projector(method.backbone(views[0])), dim=1)
    key_looks = teacher_backbone(views[1])
    key = F.normalize(teacher_projector(key_looks), dim=1)
    seen = torch.cat([F.normalize(key_looks, dim=1), method.looks.keys])
    dictionary = torch.cat([key, method.queue.keys])
    labels = torch.zeros(N, N + QUEUE, dtype=torch.float64)
    for i, row in enumerate(looks @ seen.T):
        others = [j for j in row.argsort(descending=True).tolist() if j != i]
        labels[i, [i, *others[: POSITIVES - 1]]] = 1
    bias = math.log(POSITIVES / (N + QUEUE - POSITIVES))
    return F.binary_cross_entropy_with_logits(query @ dictionary.detach().T / 0.3 + bias, labels)


def test_loss_and_gradients_are_those_of_the_formula(backend: str) -> None:
    method, views = mls(backend), two_views()
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = {name: weight for name, weight in method.named_parameters() if weight.requires_grad}
    assert not any(name.startswith("teacher.") for name in weights)
    slopes = (torch.autograd.grad(of, list(weights.values())) for of in (loss, exact))
    for found, expected in zip(*slopes, strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


def test_both_queues_take_the_rows_of_a_step_in_one_order_and_nothing_else() -> None:
    method, views = mls(), two_views()
    before = method.looks.keys.clone(), method.queue.keys.clone()
    looks, key = method.keys(views[1])
    method.eval()(views)
    method.train()(views)
    method.loss(*method(views)["embeddings"])
    assert torch.equal(method.looks.keys, before[0]) and len(method._newest) == 2
    method.after_step(0, 10)
    for ring, rows, old in ((method.looks, looks, before[0]), (method.queue, key, before[1])):
        expected = old.clone()
        for place, row in enumerate(torch.cat([rows, rows])):  # more rows than the ring has
            expected[place % QUEUE] = row
        torch.testing.assert_close(ring.keys, expected)
    assert not method._newest
