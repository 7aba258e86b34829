# SPDX-License-Identifier: Apache-2.0
"""Schedules take an end that is known, unknown, passed or zero, and refuse a wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_methods import small_method
from torch import nn

import sslkernels as sk
from sslkernels.methods import BYOL, METHODS
from sslkernels.models import DirectPred

pytest.importorskip("lightning")

from sslkernels.training.optimizer import optimizer_and_schedule, warmup_cosine  # noqa: E402


def of_teacher(schedule: str) -> Callable[[int, float], float]:
    return lambda step, total: sk.EMA(nn.Linear(1, 1), 0.9, schedule=schedule).momentum_at(step, total)


def of_method(name: str) -> Callable[[int, float], float]:
    """Measure how far the teacher goes from 0 towards a student at 1."""

    def moved(step: int, total: float) -> float:
        method = small_method(name)
        for p in method.parameters():
            p.data.fill_(1.0)
        for p in method.teacher.parameters():
            p.data.fill_(0.0)
        method.after_step(step, total)
        return 1 - next(method.teacher.parameters()).flatten()[0].item()

    return moved


def of_rate(step: int, total: float) -> float:
    optimizer, schedule = optimizer_and_schedule(small_method("simclr"), 1.0, 0.0, total)
    for _ in range(step):
        optimizer.step()
        schedule.step()
    return optimizer.param_groups[0]["lr"]


TAUGHT = [name for name in METHODS if hasattr(small_method(name), "teacher")]
# For each schedule: its value at the first step, without a known end, and from the end on.
SCHEDULES: dict[str, tuple[Callable[[int, float], float], float, float, float]] = {
    "constant": (of_teacher("constant"), 0.9, 0.9, 0.9),
    "cosine": (of_teacher("cosine"), 0.9, 0.9, 1.0),
    "linear": (of_teacher("linear"), 0.9, 0.9, 1.0),
    "rate": (of_rate, 1.0, 1.0, 0.0),
    "warmup_cosine": (warmup_cosine, 1.0, 1.0, 0.0),
    **{
        name: (
            of_method(name),
            first := small_method(name).teacher.momentum,
            first,
            first if name in ("moco_v2", "sce", "ressl") else 1.0,
        )
        for name in TAUGHT
    },
}


def test_what_has_a_teacher() -> None:
    assert set(TAUGHT) >= {"byol", "i_jepa", "moby", "moco_v2", "moco_v3"}
    assert not set(TAUGHT) & {"barlow_twins", "mae", "simclr", "simsiam", "vicreg"}


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*")
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_end_where_they_should_and_stay_there(name: str) -> None:
    at, first, unknown, end = SCHEDULES[name]
    near = pytest.approx
    assert at(0, 1) == near(first, abs=1e-6)
    for total in (1, 7, np.int64(7)):
        for step in (total, total + 1, 3 * total, 3 * total + 1):
            assert at(step, total) == near(end, abs=1e-6)
    for step in (0, 1) if name == "rate" else (600, 10**6, 10**9):  # the rate of a few steps is still warming up
        assert at(step, math.inf) == near((step + 1) / 500 if name == "rate" else unknown, abs=1e-6)
    values = [at(step, 9) for step in range(0, 12)]
    assert values == sorted(values, reverse=end < first) and all(math.isfinite(value) for value in values)


def test_the_equal_and_the_warming_teacher_know_no_end() -> None:
    for schedule in ("equal", "warmup"):
        for total in (None, 1, 5, math.inf):
            momenta = [sk.EMA(nn.Linear(1, 1), schedule=schedule).momentum_at(step, total) for step in range(50)]
            assert momenta == sorted(momenta) and momenta[0] == 0 and momenta[-1] < 1


WRONG_TOTALS = (-1, -math.inf, float("nan"), 1.5, "9", True, None, [9], torch.tensor(9), np.float32(2), 10**400)
WRONG_STEPS = (-1, float("nan"), math.inf, 1.5, "9", True, None, [9], torch.tensor(9), 10**400)


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "warmup_cosine", *METHODS])
def test_wrong_steps_and_totals_are_one_sentence(name: str) -> None:
    says = (
        type(small_method(name)).__name__ if name in METHODS else "warmup_cosine" if name == "warmup_cosine" else "EMA"
    )
    call = small_method(name).after_step if name in METHODS else SCHEDULES[name][0]
    calls = [(step, 9, "step") for step in WRONG_STEPS] + [(0, total, r"total(_steps)?") for total in WRONG_TOTALS]
    if says != "warmup_cosine":
        calls.append((0, 0, "total_steps"))
    for step, total, what in calls:
        if total is None and says == "EMA":
            continue  # None takes that of the constructor
        with pytest.raises((ValueError, TypeError), match=rf"^{says}: {what} is .*; pass .*\.$"):
            call(step, total)


@pytest.mark.parametrize("name", METHODS)
def test_numpy_integers_are_steps_and_totals(name: str) -> None:
    method = small_method(name)
    method.after_step(np.int32(3), np.int64(9))
    if name in TAUGHT:
        assert method.teacher.step == 3 and type(method.teacher.step) is int


def test_a_computed_predictor_takes_its_step_without_numbers() -> None:
    method = BYOL(nn.Linear(4, 4), feature_dim=4, hidden_dim=4, projection_dim=4, predictor=DirectPred(4))
    method([torch.randn(6, 4), torch.randn(6, 4)])
    method.after_step(5, math.inf)
    assert not torch.equal(method.predictor.weight, torch.eye(4))
