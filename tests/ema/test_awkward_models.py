# SPDX-License-Identifier: Apache-2.0
"""Give sk.EMA models on which other libraries' teachers stumble: it gets the right result, or raises one sentence."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import sslkernels as sk
from sslkernels.losses import NTXentLoss, TiCoLoss


class Locked(nn.Module):
    """Holds an object that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lock = nn.Linear(3, 3), threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Remembering(nn.Module):
    """Keeps its last output, and a statistic, with their graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(3, 3), None
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.linear(x)
        self.mean = 0.9 * self.mean + 0.1 * self.last.mean(0)
        return self.last


class Mixed(nn.Module):
    """Has parameters of every kind: frozen, integer, boolean and complex."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3).requires_grad_(False)
        self.whole = nn.Parameter(torch.tensor([1, 2, 3]), requires_grad=False)
        self.flags = nn.Parameter(torch.tensor([True, False, True]), requires_grad=False)
        self.phases = nn.Parameter(torch.ones(3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.whole


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def run(model: nn.Module) -> nn.Module:
    model(torch.ones(2, 3))
    return model


def without_leaves() -> nn.Module:
    model = nn.Linear(3, 3)
    model._parameters["weight"] = model.weight * 2
    return model


def in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "weight_norm": lambda: torch.nn.utils.weight_norm(nn.Linear(3, 3)),
    "weight_norm, used": lambda: run(nn.Sequential(nn.Linear(3, 3), torch.nn.utils.weight_norm(nn.Linear(3, 3)))),
    "weight_norm as parametrization": lambda: parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral_norm": lambda: run(torch.nn.utils.spectral_norm(nn.Linear(3, 3))).eval(),
    "spectral_norm as parametrization": lambda: parametrizations.spectral_norm(nn.Linear(3, 3)).eval(),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 3)),
    "pruned": lambda: torch.nn.utils.prune.l1_unstructured(nn.Linear(3, 3), "weight", amount=0.5),
    "remembers outputs": lambda: run(Remembering()),
    "mixed parameters": Mixed,
    "tied": tied,
    "parameters that are no leaves": without_leaves,
    "inference mode": in_inference_mode,
    "lazy, after a batch": lambda: run(nn.LazyLinear(3)),
    "scripted": lambda: torch.jit.script(nn.Linear(3, 3)),
    "compiled part": lambda: nn.Sequential(torch.compile(nn.Linear(3, 3), backend="eager"), nn.Linear(3, 3)),
    "no parameters": nn.Flatten,
    "channels last": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 3, 1), nn.Flatten()
    ).to(memory_format=torch.channels_last),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ("", "in inference mode", "master"))
@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_hard_to_copy(name: str, mode: str) -> None:
    student = MODELS[name]()
    with torch.inference_mode(mode == "in inference mode"):
        teacher = sk.EMA(student, momentum=0.75, master=mode == "master")
    expected = {key: p.detach().clone() for key, p in student.named_parameters()}
    for step in range(3):
        for p in student.parameters():
            with torch.inference_mode(p.is_inference()), torch.no_grad():
                p.logical_not_() if p.dtype == torch.bool else p.add_(1)
        teacher.update(student, step)
        for key, p in student.named_parameters():
            average = p.is_floating_point() or p.is_complex()
            expected[key] = 0.75 * expected[key] + 0.25 * p.detach() if average else p.detach().clone()
    for key, p in teacher.module.named_parameters():
        torch.testing.assert_close(p, expected[key])
        assert p.is_leaf and not p.requires_grad and not p.is_inference()
    for ours, theirs in zip(teacher.module.buffers(), student.buffers(), strict=True):
        assert torch.equal(ours, theirs) and not ours.requires_grad
    # The teacher computes with its own numbers, so a student with the same numbers gives the same output.
    x = torch.randn(4, 3)
    output = teacher(x)
    if not any(p.is_inference() for p in student.parameters()):
        student.load_state_dict(teacher.module.state_dict())
        torch.testing.assert_close(output, student(x).detach())
    for p in student.parameters():
        assert p.requires_grad == (p.is_floating_point() or p.is_complex()) or name in ("mixed parameters",)


def in_a_list() -> nn.Module:
    model = nn.Linear(3, 3)
    model.outputs = [model(torch.ones(1, 3))]
    return model


def built_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Locked()


def shared() -> sk.EMA:
    model = Locked()
    return sk.EMA(model, teacher=nn.Sequential(model.linear))


SENTENCES: dict[str, tuple[Callable[[], object], str]] = {
    "a lock": (lambda: sk.EMA(Locked()), "model cannot be copied .* pass it as teacher="),
    "outputs in a list": (lambda: sk.EMA(in_a_list()), "model cannot be copied .* pass it as teacher="),
    "lazy": (lambda: sk.EMA(nn.LazyLinear(3)), "model has lazy tensors, .* run it on a batch once first"),
    "lazy buffers": (lambda: sk.EMA(nn.LazyBatchNorm1d()), "model has lazy tensors"),
    "lazy teacher": (lambda: sk.EMA(nn.Linear(3, 3), teacher=nn.LazyLinear(3)), "teacher has lazy tensors"),
    "itself": (lambda: sk.EMA(model := Locked(), teacher=model), "teacher has parameters of the model itself"),
    "a part of itself": (shared, "teacher has parameters of the model itself"),
    "other names": (lambda: sk.EMA(Locked(), teacher=nn.Linear(3, 3)), "same architecture"),
    "other shapes": (lambda: sk.EMA(nn.Linear(3, 3), teacher=nn.Linear(2, 3)), "tensors of one architecture"),
    "inference mode": (lambda: sk.EMA(Locked(), teacher=built_in_inference_mode()), "build it outside"),
    "meta": (lambda: sk.EMA(m := nn.Linear(3, 3, device="meta")).update(m), "on meta, which holds no numbers"),
    "meta, elsewhere": (lambda: sk.EMA(nn.Linear(3, 3, device="meta"), device="cpu"), "model is on meta and device"),
    "a class": (lambda: sk.EMA(nn.Linear), "model is the class Linear; pass an instance"),
    "no module": (lambda: sk.EMA(nn.Linear(1, 1)).set(torch.ones(1)), "student is a tensor"),
    "float8": (lambda: sk.EMA(m := nn.Linear(3, 3).to(torch.float8_e4m3fn)).update(m), "dtype torch.float8_e4m3fn"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_cannot_be_averaged_is_one_sentence(case: str) -> None:
    call, words = SENTENCES[case]
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    sentence = str(caught.value)
    assert sentence.startswith("EMA: ") and sentence.endswith(".") and "\n" not in sentence


def test_a_teacher_that_was_built_apart() -> None:
    model, other = Locked(), Locked()
    teacher = sk.EMA(model, 0.5, teacher=other, master=True)
    assert teacher.module is other and torch.equal(other.linear.weight, model.linear.weight)
    assert not other.linear.weight.requires_grad and model.linear.weight.requires_grad
    start = model.linear.weight.detach().clone()
    model.linear.weight.data += 1
    teacher.update(model)
    torch.testing.assert_close(other.linear.weight.data, start + 0.5)
    exact = nn.Linear(3, 3)
    rounded = sk.EMA(exact, teacher=nn.Linear(3, 3).bfloat16(), master=True)
    assert torch.equal(rounded.master0, exact.weight)


def test_a_model_that_begins_on_meta() -> None:
    student = nn.Sequential(nn.Linear(3, 3, device="meta"), nn.BatchNorm1d(3, device="meta")).bfloat16()
    teacher = sk.EMA(student, 0.5, master=True)
    for each in (student, teacher):
        each.to_empty(device="cpu")
    for part in student:
        part.reset_parameters()
    teacher.set(student)
    teacher.update(student)
    assert all(torch.equal(a, b) for a, b in zip(teacher.module.parameters(), student.parameters(), strict=True))
    assert torch.equal(teacher.master0, student[0].weight.float())


class Growing(nn.Module):
    """Has buffers that appear, grow, vanish or are not saved, and a loss whose bank appears late."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.loss, self.bank = nn.Linear(3, 3), TiCoLoss(), NTXentLoss(memory_bank_size=4)
        self.register_buffer("queue", torch.zeros(0, 3))
        self.register_buffer("start", torch.ones(2))
        self.register_buffer("late", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.linear(x)
        self.loss(z, z)
        self.bank(z, z.detach())
        self.queue = torch.cat([self.queue, z.detach()])
        self.start = None
        self.late = torch.arange(len(self.queue))
        if not hasattr(self, "new"):
            self.register_buffer("new", torch.tensor(0))
        self.new += 1
        return z


def held(model: nn.Module) -> dict[str, Tensor]:
    """Return the saved state, and all buffers, saved or not."""
    return {**{k: x for k, x in model.state_dict().items() if "linear" not in k}, **dict(model.named_buffers())}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("average_buffers", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
def test_buffers_that_appear_grow_and_go(dtype: torch.dtype, average_buffers: bool) -> None:
    student = nn.Sequential(Growing())
    teacher = sk.EMA(student, 0.5, average_buffers=average_buffers).to(dtype)
    for step in range(3):
        student(torch.randn(2, 3))
        teacher.update(torch.compile(student, backend="eager"), step)
        ours, theirs = held(teacher.module), held(student)
        assert ours.keys() == theirs.keys() and {"0.loss.C", "0.bank.memory_bank.keys", "0.new"} <= ours.keys()
        for name, buffer in theirs.items():
            assert ours[name].shape == buffer.shape and ours[name].data_ptr() != buffer.data_ptr()
            if not average_buffers or step == 0 or name in ("0.queue", "0.late", "0.new"):
                assert torch.equal(ours[name], buffer.to(ours[name].dtype)), name
        assert teacher.module.state_dict().keys() == student.state_dict().keys()
    assert teacher.module[0].start is None and teacher.module[0].queue.dtype == dtype
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    resumed = sk.EMA(student, 0.5, average_buffers=average_buffers).to(dtype)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed.module[0].queue, teacher.module[0].queue)


def test_a_buffer_that_only_the_teacher_has_is_named() -> None:
    student, teacher = nn.BatchNorm1d(3), sk.EMA(nn.BatchNorm1d(3))
    del student.running_mean
    before = teacher.module.weight.clone()
    with pytest.raises(ValueError, match="EMA: of the buffers 'running_mean' is the teacher's alone"):
        teacher.update(student)
    assert torch.equal(teacher.module.weight, before) and teacher.step == -1


@pytest.mark.parametrize("kind", (np.int64, np.int32, np.uint8))
def test_numpy_integers_are_steps(kind: type) -> None:
    student = nn.Linear(3, 3)
    teacher = sk.EMA(student, schedule="cosine", total_steps=kind(9))
    teacher.update(student, kind(3), kind(9))
    assert type(teacher.step) is int and teacher.momentum_at(kind(3)) == teacher.momentum_at(3)
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    file.seek(0)
    teacher.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("step", (True, np.bool_(True), 1.0, "3", -1, [1], float("nan"), torch.tensor(3), 1j))
def test_other_steps_are_one_sentence(step: object) -> None:
    student = nn.Linear(3, 3)
    for call in (sk.EMA(student).momentum_at, lambda step: sk.EMA(student).update(student, step)):
        with pytest.raises((ValueError, TypeError), match=r"^EMA: step is .*; pass a whole number of at least 0\.$"):
            call(step)


def test_function_transforms() -> None:
    student = nn.Linear(3, 3)
    teacher, x = sk.EMA(student, 0.5), torch.randn(4, 3)
    weights = {"module.weight": torch.zeros(3, 3)}
    assert torch.equal(torch.func.functional_call(teacher, weights, (x,)), teacher.module.bias.expand(4, 3))
    torch.testing.assert_close(torch.func.vmap(teacher)(x), teacher(x))

    def loss(weight: Tensor) -> Tensor:
        return (torch.func.functional_call(student, {"weight": weight}, (x,)) - teacher(x)).square().sum()

    weight = student.weight.detach() + 1
    expected = 2 * (torch.ones(3, 3) * x.sum(1)[:, None, None]).mul(x[:, None, :]).sum(0)
    torch.testing.assert_close(torch.func.grad(loss)(weight), expected)
