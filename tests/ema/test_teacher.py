# SPDX-License-Identifier: Apache-2.0
"""Compare sk.EMA's teacher with the formulas of other libraries, and test its schedules and its state."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sslkernels as sk


class Tied(nn.Module):
    """Has a convolution, BatchNorm, a weight of two layers, one without elements, and a buffer of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.nothing = nn.Parameter(torch.empty(0, 3))
        self.register_buffer("places", torch.arange(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.norm(self.conv(x)).mean((2, 3)))) + self.nothing.sum()


def train(model: nn.Module, steps: int, after: Callable[[int], None]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        model(torch.randn(8, 1, 5, 5, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        after(step)


def test_agrees_with_averaged_model_and_with_timm_formula() -> None:
    """AveragedModel starts with a copy of its first student; timm's ModelEmaV3 lerps every entry of the state."""
    model = Tied()
    ours, averaging = sk.EMA(model, momentum=0.9), sk.EMA(model, momentum=0.9, average_buffers=True)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.n_averaged += 1
    timm = {name: x.detach().clone() for name, x in model.state_dict().items()}

    def follow(step: int) -> None:
        ours.update(model, step)
        averaging.update(model, step)
        theirs.update_parameters(model)
        shared: set[int] = set()
        for name, x in model.state_dict().items():
            if x.data_ptr() in shared and x.numel():
                continue
            shared.add(x.data_ptr())
            if x.is_floating_point():
                timm[name].lerp_(x, 0.1)
            else:
                timm[name].copy_(x)

    train(model, 20, follow)
    for a, b, c in zip(
        ours.module.parameters(), theirs.module.parameters(), averaging.module.parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        assert torch.equal(a, c)
    for name, x in averaging.module.state_dict().items():
        if name != "second.weight":
            torch.testing.assert_close(x, timm[name], rtol=1e-6, atol=1e-7)
    assert ours.module.second.weight is ours.module.first.weight
    assert all(torch.equal(a, b) for a, b in zip(ours.module.buffers(), model.buffers(), strict=True))
    assert int(averaging.module.norm.num_batches_tracked) == 20 == int(model.norm.num_batches_tracked)


def test_the_student_is_not_touched_and_the_teacher_not_trained() -> None:
    student = nn.Linear(2, 2)
    before = [p.detach().clone() for p in student.parameters()]
    teacher = sk.EMA(student, momentum=0.0)
    student.weight.data += 1
    teacher.update(student, 0)
    assert torch.equal(teacher.module.weight, student.weight) and torch.equal(student.weight, before[0] + 1)
    assert not any(p.requires_grad for p in teacher.parameters()) and all(p.requires_grad for p in student.parameters())
    assert not teacher(torch.ones(1, 2, requires_grad=True)).requires_grad
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(teacher.parameters(), student.parameters(), strict=True))


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ("constant", lambda k, K: 0.9),
        ("cosine", lambda k, K: 1 - 0.1 * (math.cos(math.pi * k / K) + 1) / 2),
        ("linear", lambda k, K: 0.9 + 0.1 * k / K),
    ],
)
def test_schedules(schedule: str, formula: Callable[[int, int], float]) -> None:
    student, total = nn.Linear(1, 1, bias=False), 7
    teacher = sk.EMA(student, 0.9, schedule=schedule, total_steps=None if schedule == "constant" else total)
    weight = teacher.module.weight.item()
    for step in range(total + 3):
        student.weight.data.fill_(step)
        teacher.update(student, step)
        m = formula(min(step, total), total)
        assert teacher.momentum_at(step) == pytest.approx(m, abs=1e-12)
        weight = m * weight + (1 - m) * step
        assert teacher.module.weight.item() == pytest.approx(weight, rel=1e-5)
    later = sk.EMA(student, momentum=0.9, schedule=schedule)
    later.update(student, 3, total_steps=total)
    assert later.momentum_at(3, total) == teacher.momentum_at(3)


def test_counts_the_steps_of_the_optimizer() -> None:
    student = nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(0.0)
    teacher = sk.EMA(student, momentum=0.5)
    student.weight.data.fill_(1.0)
    for step in (0, 0, 0, 1, 1, 2):  # a call after every micro-batch
        teacher.update(student, step)
    assert teacher.module.weight.item() == 1 - 0.5**3
    teacher.update(student)  # the teacher counts steps by itself
    teacher.update(student)
    assert teacher.module.weight.item() == 1 - 0.5**5 and teacher.step == 4


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_a_low_precision_teacher_follows_with_a_master_and_stands_still_without(dtype: torch.dtype) -> None:
    student = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).to(dtype)
    student[1].float()
    with_master, without = sk.EMA(student, momentum=0.999, master=True), sk.EMA(student, momentum=0.999)
    exact = sk.EMA(copy.deepcopy(student).double(), momentum=0.999)
    for p in student.parameters():
        p.data.add_(0.25 * p.data.abs().clamp_min(0.1))
    for step in range(500):
        for teacher in (with_master, without, exact):
            teacher.update(student, step)
    for held, stuck, truth in zip(*(t.module.parameters() for t in (with_master, without, exact)), strict=True):
        assert torch.equal(held, truth.to(held.dtype)) or (held.double() - truth).abs().max() < 1e-5
        assert stuck.dtype == torch.float32 or not torch.equal(stuck, truth.to(dtype))
    assert sorted(name for name, _ in with_master.named_buffers()) == ["master0", "master1"]


def test_masters_stay_in_float32_and_follow_the_module() -> None:
    teacher = sk.EMA(nn.Linear(2, 2).bfloat16(), master=True)
    master = teacher.master0.clone()
    assert teacher.to(torch.bfloat16).master0.dtype == torch.float32 and torch.equal(teacher.master0, master)
    assert teacher.half().master0.dtype == torch.float32 and teacher.module.weight.dtype == torch.float16
    assert copy.deepcopy(teacher).master0.data_ptr() != teacher.master0.data_ptr()


def test_masters_come_and_go_with_the_dtype() -> None:
    student = nn.Linear(2, 2)
    teacher = sk.EMA(student, momentum=0.5, master=True)
    assert not list(teacher.buffers())
    exact = teacher.module.weight.detach().clone()
    teacher.bfloat16()
    assert torch.equal(teacher.master0, exact)  # and not the rounded numbers
    teacher.update(student.bfloat16(), 0)
    teacher.float()
    assert not list(teacher.buffers())
    teacher.update(student, 1)


def test_weights_that_were_loaded_are_not_lost_to_a_master() -> None:
    student, other = nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).bfloat16()
    for partial in (True, False):
        teacher = sk.EMA(student, momentum=0.5, master=True)
        if partial:
            teacher.module.load_state_dict(other.state_dict())
        else:
            state = {f"module.{name}": x for name, x in other.state_dict().items()}
            teacher.load_state_dict({**state, "_extra_state": {"step": 3}}, strict=False)
        teacher.update(student, 4)
        expected = (other.weight.float() + student.weight.float()) / 2
        torch.testing.assert_close(teacher.master0, expected.detach())
        copied = copy.deepcopy(teacher)
        copied.update(student, 5)
        torch.testing.assert_close(copied.master0, (expected.detach() + student.weight.float().detach()) / 2)


@pytest.mark.parametrize("master", (True, False))
def test_saved_and_resumed_exactly(master: bool) -> None:
    def run(steps: int, resume_at: int | None) -> sk.EMA:
        torch.manual_seed(3)
        student = Tied().bfloat16() if master else Tied()
        student.norm.float()
        options = {"momentum": 0.9, "schedule": "cosine", "total_steps": steps, "master": master}
        teacher = sk.EMA(student, **options)
        generator = torch.Generator().manual_seed(1)
        for step in range(steps):
            if step == resume_at:
                file = io.BytesIO()
                torch.save(teacher.state_dict(), file)
                file.seek(0)
                torch.manual_seed(9)
                teacher = sk.EMA(copy.deepcopy(student), **options)
                teacher.load_state_dict(torch.load(file, weights_only=True))
                teacher.update(student, step - 1)  # this step has been done already
            for x in (*student.parameters(), *student.buffers()):
                if x.is_floating_point():
                    x.data.add_(torch.randn(x.shape, generator=generator).to(x.dtype), alpha=0.1)
            teacher.update(student, step)
        return teacher

    whole, resumed = run(12, None), run(12, 5)
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert a == b if isinstance(a, dict) else torch.equal(a, b), name


def test_wrappers_are_looked_into() -> None:
    student = Tied()
    teacher = sk.EMA(torch.compile(student), momentum=0.5)
    assert type(teacher.module) is Tied
    start = student.conv.weight.detach().clone()
    student.conv.weight.data += 1
    teacher.update(torch.compile(student), 0)
    torch.testing.assert_close(teacher.module.conv.weight, start + 0.5)
    student.first = torch.compile(student.first)  # this part is compiled
    teacher.update(student, 1)
    torch.testing.assert_close(teacher.module.conv.weight, start + 0.75)


def test_a_compiled_student_trains_beside_its_teacher() -> None:
    torch._dynamo.reset()
    student = nn.Linear(3, 3)
    teacher = sk.EMA(student, momentum=0.9)
    compiled = torch.compile(student, fullgraph=True)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    expected = student.weight.detach().clone()
    for step in range(4):
        x = torch.randn(5, 3)
        (compiled(x) - teacher(x)).square().mean().add(compiled(x).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        teacher.update(compiled, step)
        expected = 0.9 * expected + 0.1 * student.weight.detach()
    torch.testing.assert_close(teacher.module.weight, expected)


def test_lightly_one_line_change() -> None:
    model, model_ema = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    model.weight.data.fill_(3.0)
    model.running_mean.fill_(5.0)
    assert sk.update_momentum(model, model_ema, m=0.5) is None
    assert (model_ema.weight == 2).all() and (model_ema.running_mean == 0).all()


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: sk.EMA(3), TypeError, "EMA: model is .*; pass a torch.nn.Module"),
        (lambda: sk.EMA(nn.Linear(1, 1), momentum=1.5), ValueError, "momentum is 1.5; pass a number from 0 to 1"),
        (lambda: sk.EMA(nn.Linear(1, 1), momentum="high"), TypeError, "momentum is a str"),
        (lambda: sk.EMA(nn.Linear(1, 1), schedule="cos"), ValueError, "schedule is 'cos'; accepted are 'constant'"),
        (lambda: sk.EMA(nn.Linear(1, 1), schedule="linear", total_steps=0), ValueError, "total_steps is 0"),
        (
            lambda: sk.EMA(nn.Linear(1, 1), schedule="cosine").update(nn.Linear(1, 1), 0),
            ValueError,
            "cosine schedule needs total_steps",
        ),
        (lambda: sk.EMA(nn.Linear(1, 1)).update(nn.Linear(1, 1), -1), ValueError, "step is -1"),
        (
            lambda: sk.EMA(nn.Linear(1, 1)).update(nn.Linear(2, 1), 0),
            ValueError,
            r"EMA: the teacher's 'weight' has shape \(1, 1\) and the student's 'weight' \(1, 2\); pass the tensors",
        ),
        (lambda: sk.EMA(nn.Linear(1, 1)).update(nn.Linear(1, 1, bias=False), 0), ValueError, "'bias' is the teacher's"),
        (lambda: sk.update_momentum(nn.Linear(1, 1), nn.BatchNorm2d(1), 0.5), ValueError, "one architecture"),
        (lambda: sk.EMA(nn.Linear(1, 1)).update(None), TypeError, "EMA: student is .*; pass a torch.nn.Module"),
        (
            lambda: sk.EMA(nn.Linear(1, 1), schedule="linear").update(nn.Linear(1, 1), 0, 0),
            ValueError,
            "total_steps is 0",
        ),
        (lambda: sk.EMA(nn.Linear(1, 1)).momentum_at(-5), ValueError, "step is -5"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_other_wrappers_and_names() -> None:
    student = nn.Sequential(nn.Linear(2, 2))
    teacher = sk.EMA(student, momentum=0.0)
    student[0].weight.data += 1
    teacher.update(nn.DataParallel(student), 0)
    assert torch.equal(teacher.module[0].weight, student[0].weight)
    named = nn.ModuleDict({"a": nn.Linear(2, 2)})  # lightly pairs by order
    sk.update_momentum(student, named, 0.0)
    assert torch.equal(named["a"].weight, student[0].weight)


def test_a_step_that_fails_can_be_taken_again() -> None:
    student = nn.Linear(1, 1)
    teacher = sk.EMA(student, momentum=0.5)
    with pytest.raises(ValueError):
        teacher.update(nn.Linear(2, 1), 0)
    student.weight.data += 1
    before = teacher.module.weight.item()
    teacher.update(student, 0)
    assert teacher.module.weight.item() != before
