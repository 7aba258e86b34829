# SPDX-License-Identifier: Apache-2.0
"""Losses with prototypes on two ranks are those of all rows in one process, and their centres are the same on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import WorldsOf, caught

from sslkernels.losses import CAPILoss, DINOLoss, IBOTPatchLoss, MSNLoss, PMSNLoss, SwaVLoss, dinov2

IMAGES, K = 6, 5
MASK = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]], dtype=torch.bool)[:, :, None]
PROTOTYPES = torch.randn(K, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape)))


def patches(loss: nn.Module, teacher: Tensor, student: Tensor, images: slice) -> Tensor:
    mask = MASK[images]
    return loss(teacher[mask[:, :, 0]], student[mask[:, :, 0]], mask)


def anchors(loss: nn.Module, teacher: Tensor, student: Tensor) -> Tensor:
    return loss(student.transpose(0, 1).flatten(0, 1)[:, :4], teacher[:, 0, :4], PROTOTYPES)


def class_tokens(loss: Any, teacher: Tensor, student: Tensor, _: slice) -> Tensor:
    logits = teacher[:, 0]
    targets = [loss.softmax_center_teacher(logits, 0.5), loss.sinkhorn_knopp_teacher(logits, 0.5)]
    loss.update_center(logits)
    return loss(list(student.unbind(1)), targets)


def masked(loss: Any, teacher: Tensor, student: Tensor, images: slice) -> Tensor:
    """The second rank lacks some patches, and some images; both ranks have masked ones of the others."""
    mask, some = MASK[images, :, 0], teacher[: 3 if images.start == 0 else 0, 0]
    loss.sinkhorn_knopp_teacher(some, 0.5, torch.tensor([len(some)]))
    loss.update_center(some[None])
    logits = teacher[mask]
    targets = loss.sinkhorn_knopp_teacher(logits, 0.5, torch.tensor([len(logits)]))
    centred = loss.softmax_center_teacher(logits[None], 0.5)[0]
    loss.update_center(logits[None])
    return loss.forward_masked(student[mask], targets + centred, mask)


# Ours, and how it takes logits (images, 3, K) of the teacher and of the student, and which images they are.
CASES: dict[str, tuple[Callable[[bool], nn.Module], Callable[..., Tensor]]] = {
    "dino": (lambda _: DINOLoss(K), lambda loss, t, s, _: loss(list(t.unbind(1)[:2]), list(s.unbind(1)))),
    "ibot": (lambda _: IBOTPatchLoss(K), patches),
    "msn": (lambda many: MSNLoss(gather_distributed=many), lambda loss, t, s, _: anchors(loss, t, s)),
    "pmsn": (lambda many: PMSNLoss(gather_distributed=many), lambda loss, t, s, _: anchors(loss, t, s)),
    "swav": (
        lambda many: SwaVLoss(sinkhorn_gather_distributed=many),
        lambda loss, t, s, _: loss(list(s.unbind(1)[:2]), [s[:, 2]]).sum(),
    ),
    "dinov2": (lambda _: dinov2.DINOLoss(K), class_tokens),
    "dinov2 patches": (lambda _: dinov2.iBOTPatchLoss(K), masked),
    "capi": (lambda many: CAPILoss(gather_distributed=many), lambda loss, t, s, _: loss(t, s)),
}


def run(name: str, images: slice, many: bool) -> dict[str, Any]:
    make, call = CASES[name]
    loss, student = make(many), drawn(IMAGES, 3, K)[images].clone().requires_grad_()
    for _ in range(2):  # the second step has the centre of the first
        value = call(loss, drawn(3, IMAGES, K, 1)[..., 0].transpose(0, 1)[images], student, images)
    (grad,) = torch.autograd.grad(value, student)
    return {"value": value.detach(), "grad": grad, "state": dict(loss.state_dict())}


def job(rank: int, world: int) -> dict[str, Any]:
    share = IMAGES // world
    return {name: caught(run, name, slice(rank * share, (rank + 1) * share), True) for name in CASES}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("name", CASES)
def test_ranks_together_give_value_and_gradient_of_one_process(worlds: WorldsOf, name: str) -> None:
    results = [result[name] for result in worlds(2)]
    assert all(isinstance(result, dict) for result in results), results
    wanted = run(name, slice(0, IMAGES), False)
    torch.testing.assert_close(sum(result["value"] for result in results) / 2, wanted["value"], rtol=1e-6, atol=1e-9)
    together = torch.cat([result["grad"] for result in results]) / 2
    torch.testing.assert_close(together, wanted["grad"], rtol=1e-5, atol=1e-8)
    for result in results:
        for key, value in wanted["state"].items():
            torch.testing.assert_close(result["state"][key], value)
