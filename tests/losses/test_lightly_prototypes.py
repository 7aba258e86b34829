# SPDX-License-Identifier: Apache-2.0
"""Modules of lightly that compare with prototypes: its values, gradients, centres and checkpoints, and finite where its
own are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from originals import lightly_losses
from torch import Tensor, nn

from sslkernels import losses
from sslkernels.losses import CAPILoss, DINOLoss, IBOTPatchLoss, KoLeoLoss, MSNLoss, PMSNLoss, SwaVLoss

K, D = 6, 5
Load = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def lightly() -> Iterator[Load]:
    yield from lightly_losses()


def rows(*shape: int, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, dtype=torch.float64)


def leaf(*shape: int, size: float = 1.0) -> Tensor:
    return rows(*shape, size=size).requires_grad_()


MASK = torch.tensor([[[1, 0], [1, 1]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)


def dino(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    students = [leaf(4, K, size=size) for _ in range(3)]
    return [[rows(4, K, size=size) for _ in range(2)], students], students


def ibot(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    student = leaf(4, K, size=size)
    return [rows(4, K, size=size), student, MASK], [student]


def msn(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    anchors, prototypes = leaf(12, D), leaf(K, D)
    return [anchors, rows(4, D), prototypes], [anchors, prototypes]


def halves(mean: Tensor) -> Tensor:
    """Each prototype is half as probable as the one before it."""
    prior = torch.full_like(mean, 0.5).cumprod(0)
    return prior / prior.sum()


def swav(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    high, low = [leaf(4, K, size=size) for _ in range(2)], [leaf(4, K, size=size) for _ in range(3)]
    return [high, low], [*high, *low]


def queued(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    (high, low), leaves = swav(size)
    return [high, low, [rows(7, K), rows(7, K)]], leaves


def capi(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    student = leaf(4, 3, K, size=size)
    return [rows(4, 3, K, size=size / 3), student], [student]  # lightly's eps is felt in sharper targets


def predicted(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    student = leaf(4, 2, K, size=size)
    return [rows(4, 3, K, size=size), student, torch.tensor([[2, 0], [1, 1], [0, 2], [2, 1]])], [student]


def koleo(size: float = 1.0) -> tuple[list[Any], list[Tensor]]:
    x = leaf(7, D)
    return [x], [x]


# For each: lightly's file, options of the constructor, how arguments are drawn, and options of the call.
CASES: dict[str, tuple[str, dict[str, Any], Callable[..., Any], dict[str, Any]]] = {
    "KoLeoLoss": ("koleo_loss", {}, koleo, {}),
    "KoLeoLoss by sums": ("koleo_loss", {"p": 1.0, "eps": 1e-3}, koleo, {}),
    "KoLeoLoss by cubes": ("koleo_loss", {"p": 3.0}, koleo, {}),
    "DINOLoss": ("dino_loss", {"output_dim": K}, dino, {}),
    "DINOLoss at a temperature": ("dino_loss", {"output_dim": K, "student_temp": 0.3}, dino, {"teacher_temp": 0.2}),
    "DINOLoss in an epoch": (
        "dino_loss",
        {"output_dim": K, "warmup_teacher_temp": 0.5, "warmup_teacher_temp_epochs": 3},
        dino,
        {"epoch": 1},
    ),
    "DINOLoss after the warmup": ("dino_loss", {"output_dim": K, "warmup_teacher_temp": 0.5}, dino, {"epoch": 30}),
    "IBOTPatchLoss": ("ibot_loss", {"output_dim": K, "center_momentum": 0.5}, ibot, {}),
    "IBOTPatchLoss at a temperature": ("ibot_loss", {"output_dim": K}, ibot, {"teacher_temp": 0.3}),
    "MSNLoss": ("msn_loss", {}, msn, {}),
    "MSNLoss sharper": ("msn_loss", {"temperature": 0.3}, msn, {"target_sharpen_temperature": 0.5}),
    "MSNLoss as it is": ("msn_loss", {"sinkhorn_iterations": 0, "regularization_weight": 0.0}, msn, {}),
    "PMSNLoss": ("pmsn_loss", {}, msn, {}),
    "PMSNLoss steeper": ("pmsn_loss", {"power_law_exponent": 1.5, "regularization_weight": 0.3}, msn, {}),
    "PMSNCustomLoss": ("pmsn_loss", {"target_distribution": halves}, msn, {}),
    "SwaVLoss": ("swav_loss", {}, swav, {}),
    "SwaVLoss of five rounds": (
        "swav_loss",
        {"sinkhorn_iterations": 5, "sinkhorn_epsilon": 0.5, "temperature": 0.3},
        swav,
        {},
    ),
    "SwaVLoss with a queue": ("swav_loss", {}, queued, {}),
    "CAPILoss": ("capi_loss", {}, capi, {}),
    "CAPILoss of some patches": ("capi_loss", {"teacher_temperature": 0.5, "sinkhorn_iterations": 2}, predicted, {}),
}


def run(loss: nn.Module, arguments: list[Any], leaves: list[Tensor], options: dict[str, Any]) -> list[Tensor]:
    value = loss(*arguments, **options)
    return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("case", CASES)
def test_values_gradients_and_centres_are_lightlys(lightly: Load, case: str) -> None:
    """Two steps, so that the second has a centre that the first one moved. Centres are in float32 here."""
    name = case.split()[0]
    file, options, draw, given = CASES[case]
    ours, theirs = getattr(losses, name)(**options), lightly(file, name)(**options)
    for _ in range(2):
        arguments, leaves = draw()
        found, wanted = (run(loss, arguments, leaves, given) for loss in (ours, theirs))
        for mine, his in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, his, rtol=2e-6, atol=2e-6)
    state, original = ours.state_dict(), theirs.state_dict()
    assert state.keys() == original.keys()
    for key, value in original.items():
        torch.testing.assert_close(state[key], value.float())
    ours.load_state_dict({key: value.float() for key, value in original.items()})


@pytest.mark.parametrize("case", ["SwaVLoss", "SwaVLoss with a queue"])
def test_logits_of_any_size_are_balanced(lightly: Load, case: str) -> None:
    """Twenty times as large, exp(l / 0.05) overflows even in float64, and lightly's loss is NaN."""
    file, options, draw, given = CASES[case]
    arguments, leaves = draw(size=40.0)
    ours, theirs = SwaVLoss(**options), lightly(file, "SwaVLoss")(**options)
    assert theirs(*arguments).isnan()
    assert all(x.isfinite().all() for x in run(ours, arguments, leaves, given))


def test_a_target_far_from_its_anchor_has_a_finite_loss(lightly: Load) -> None:
    """The anchor's probability of its target is e^-200: float32 has zero for it, and lightly's logarithm infinity."""
    options = {"temperature": 0.01, "sinkhorn_iterations": 0, "regularization_weight": 0.0}
    arguments = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert not lightly("msn_loss", "MSNLoss")(**options)(*arguments).isfinite()
    torch.testing.assert_close(MSNLoss(**options)(*arguments), torch.tensor(200.0))


@pytest.mark.parametrize("name", ["DINOLoss", "IBOTPatchLoss"])
def test_the_centre_stays_in_evaluation_and_moves_in_float32(name: str) -> None:
    draw = {"DINOLoss": dino, "IBOTPatchLoss": ibot}[name]
    loss = getattr(losses, name)(output_dim=K).eval()
    loss(*draw()[0])
    (center,) = loss.state_dict().values()
    assert not center.any()
    loss.train()(*draw()[0])
    (center,) = loss.state_dict().values()
    assert center.any() and center.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_logits_of_16_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    teacher, student = torch.randn(2, 4, K).to(dtype), torch.randn(2, 4, K).to(dtype).requires_grad_()
    value = DINOLoss(output_dim=K)(list(teacher), list(student))
    with torch.autocast("cpu", torch.bfloat16):
        again = DINOLoss(output_dim=K)(list(teacher), list(student))
    wanted = DINOLoss(output_dim=K)(list(teacher.double()), list(student.double()))
    assert value.dtype == torch.float32 and torch.equal(value, again)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.autograd.grad(value, student)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_16_bits_are_computed_in_float32(dtype: torch.dtype) -> None:
    given = [torch.randn(n, D).to(dtype).requires_grad_() for n in (8, 4, K)]
    wanted = PMSNLoss()(*(x.double() for x in given))
    with torch.autocast("cpu", torch.bfloat16):
        value = PMSNLoss()(*given)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(value, given[0])[0].dtype == dtype


def test_no_masked_patch_costs_nothing_and_leaves_the_centre() -> None:
    loss, student = IBOTPatchLoss(output_dim=K), torch.zeros(0, K, requires_grad=True)
    value = loss(torch.zeros(0, K), student, torch.zeros(2, 3, 3, dtype=torch.bool))
    value.backward()
    assert value == 0 and student.grad is not None and not loss.center.value.any()


def test_teachers_of_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        teacher = [torch.randn(4, K), torch.randn(4, K)]
    student = [torch.randn(4, K, requires_grad=True), torch.randn(4, K, requires_grad=True)]
    DINOLoss(output_dim=K)(teacher, student).backward()
    SwaVLoss()(student, teacher).backward()
    CAPILoss()(teacher[0][None], student[0][None]).backward()
    KoLeoLoss()(student[0]).backward()
    PMSNLoss()(student[0], teacher[0], student[1]).backward()
