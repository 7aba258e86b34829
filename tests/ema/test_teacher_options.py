# SPDX-License-Identifier: Apache-2.0
"""Compare sk.EMA's schedules with other libraries' formulas, written out here, and test its device and its set()."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import sslkernels as sk


def timm_decay(step: int, decay: float, gamma: float, power: float) -> float:
    """Compute `ModelEmaV3.get_decay` with use_warmup, update_after_step 0, min_decay 0; its steps count from 1."""
    step = max(0, step - 1)
    return 0.0 if step <= 0 else max(min(1 - (1 + step / gamma) ** -power, decay), 0.0)


def solo_learn_tau(step: int, steps: int, base: float, final: float) -> float:
    """Compute `MomentumUpdater.update_tau`."""
    return final - (final - base) * (math.cos(math.pi * step / steps) + 1) / 2


MOMENTA: dict[str, tuple[dict[str, object], Callable[[int], float]]] = {
    "timm's defaults": ({"schedule": "warmup", "momentum": 0.9999}, lambda k: timm_decay(k + 1, 0.9999, 1.0, 2 / 3)),
    "timm": (
        {"schedule": "warmup", "momentum": 0.7, "warmup_gamma": 10, "warmup_power": 0.75},
        lambda k: timm_decay(k + 1, 0.7, 10.0, 0.75),
    ),
    "solo-learn": (
        {"schedule": "cosine", "momentum": 0.9, "final_momentum": 0.99, "total_steps": 30},
        lambda k: solo_learn_tau(min(k, 30), 30, 0.9, 0.99),
    ),
    "a momentum that falls": (
        {"schedule": "linear", "momentum": 0.9, "final_momentum": 0.1, "total_steps": 30},
        lambda k: 0.9 + (0.1 - 0.9) * min(k, 30) / 30,
    ),
    "no end known": ({"schedule": "cosine", "momentum": 0.9, "total_steps": math.inf}, lambda k: 0.9),
    "equal": ({"schedule": "equal"}, lambda k: k / (k + 1)),
}


@pytest.mark.parametrize("name", MOMENTA)
def test_momenta_and_the_teacher_that_has_them(name: str) -> None:
    options, formula = MOMENTA[name]
    student = nn.Linear(3, 2)
    teacher = sk.EMA(student, **options)
    expected = student.weight.detach().double().clone()
    for step in range(40):
        student.weight.data.normal_()
        teacher.update(student, step)
        m = formula(step)
        assert teacher.momentum_at(step) == pytest.approx(m, abs=1e-12)
        expected = m * expected + (1 - m) * student.weight.detach().double()
        torch.testing.assert_close(teacher.module.weight.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("average_buffers", (False, True))
def test_equal_weights_are_torchs_averaged_model(average_buffers: bool) -> None:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    theirs = AveragedModel(student, use_buffers=average_buffers)
    ours = sk.EMA(student, schedule="equal", average_buffers=average_buffers)
    seen = []
    for step in range(0, 500, 50):  # SWA averages one student per epoch, so it counts updates and not steps
        for parameter in student.parameters():
            parameter.data.normal_()
        student(torch.randn(5, 3))
        seen.append(student[0].weight.detach().double().clone())
        theirs.update_parameters(student)
        ours.update(student, step)
        if step == 200:  # saved and resumed in between
            file = io.BytesIO()
            torch.save(ours.state_dict(), file)
            file.seek(0)
            ours = sk.EMA(student, schedule="equal", average_buffers=average_buffers)
            ours.load_state_dict(torch.load(file, weights_only=True))
    for (key, a), b in zip(ours.module.state_dict().items(), theirs.module.state_dict().values(), strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=key)
    torch.testing.assert_close(ours.module[0].weight.double(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)
    assert ours.updates == 10 and ours.step == 450


@pytest.mark.parametrize("schedule", ("constant", "equal"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_set_makes_a_copy(dtype: torch.dtype, schedule: str) -> None:
    start, student = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    student(torch.randn(9, 3))
    teacher = sk.EMA(start.to(dtype), schedule=schedule, master=True, average_buffers=True)
    teacher.update(start, 7)
    assert teacher.set(student) is None
    for a, b in zip(teacher.module.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(a, b.to(a.dtype)) and a.data_ptr() != b.data_ptr()
    if dtype == torch.bfloat16:
        assert torch.equal(teacher.master0, student[0].weight)  # bfloat16 cannot hold these bits
    assert teacher.step == 7
    if schedule == "equal":
        teacher.update(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 8)
        assert teacher.updates == 1 and not torch.equal(teacher.module[0].weight, student[0].weight)


def test_the_device_is_kept() -> None:
    student = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    whole = nn.ModuleDict({"student": student, "teacher": sk.EMA(student, 0.5, device="cpu")})
    assert whole["teacher"].device == torch.device("cpu")
    whole.double().to("cpu").share_memory()
    whole["teacher"].update(whole["student"])
    assert whole["teacher"].module[0].weight.dtype == torch.float64


IGNORED = [
    ("constant", "final_momentum", 0.9), ("constant", "total_steps", 10), ("constant", "warmup_gamma", 1),
    ("constant", "warmup_power", 1), ("cosine", "warmup_gamma", 1), ("linear", "warmup_power", 1),
    ("warmup", "final_momentum", 1.0), ("warmup", "total_steps", 10), ("equal", "momentum", 0.9),
    ("equal", "total_steps", 5), ("equal", "final_momentum", 1), ("equal", "warmup_power", 1),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "option", "value"), IGNORED)
def test_an_option_that_would_be_ignored_is_refused(schedule: str, option: str, value: object) -> None:
    with pytest.raises(
        ValueError, match=f"EMA: {option} is {value} and schedule '{schedule}' makes nothing of it"
    ) as e:
        sk.EMA(nn.Linear(1, 1), schedule=schedule, **{option: value})
    assert str(e.value).endswith(".")


NUMBERS = (-0.1, float("nan"), float("inf"), "0.9", True, None, torch.ones(2), [0.9], 1j)
WRONG = {
    "momentum": (("constant", "cosine", "warmup"), (1.1, *NUMBERS)),
    "final_momentum": (("cosine", "linear"), (1.1, *NUMBERS)),
    "warmup_gamma": (("warmup",), (0, *NUMBERS)),
    "warmup_power": (("warmup",), (0, *NUMBERS)),
    "total_steps": (("cosine", "linear"), (0, -1, 1.5, float("nan"), -math.inf, "9", True, torch.tensor(3), [9])),
    "average_buffers": (("constant",), ("yes", 1, None, torch.tensor(True))),
    "master": (("constant",), ("yes", 1, None)),
    "device": (("constant",), ("nowhere", 1.5, "cuda:99", [0])),
    "backend": (("constant",), ("x", 3, b"cpu", True)),
    "schedule": ((), ("cos", None, 3, ["cosine"])),
    "teacher": (("constant",), (3, "model", nn.Linear, torch.ones(1))),
}


def test_wrong_values_are_one_sentence() -> None:
    for option, (schedules, values) in WRONG.items():
        for schedule in schedules or (None,):
            for value in values:
                if value is None and option in ("momentum", "final_momentum", "warmup_gamma", "warmup_power"):
                    continue  # this one is not given
                options = {option: value} if schedule is None else {"schedule": schedule, option: value}
                with pytest.raises((ValueError, TypeError)) as caught:
                    sk.EMA(nn.Linear(1, 1), **options)
                sentence = str(caught.value)
                assert sentence.startswith((f"EMA: {option} is ", "backend is ")) and sentence.endswith("."), sentence
                assert "\n" not in sentence
