# SPDX-License-Identifier: Apache-2.0
"""Check that state beside a tensor follows the tensor: whoever writes it, in any way, the next step begins there."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels.losses import NTXentLoss, TiCoLoss
from sslkernels.methods import BYOL, MoBY, MoCoV2, MoCoV3
from sslkernels.models import DirectPred


def _no_grad(tensor: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(values)


def _inference(tensor: Tensor, values: Tensor) -> None:
    with torch.inference_mode():
        tensor.copy_(values)


def _set(tensor: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        tensor.set_(values.to(tensor.dtype))


def _one_by_one(tensor: Tensor, values: Tensor) -> None:
    for place in range(tensor.numel()):
        tensor.data.view(-1)[place] = values.reshape(-1)[place]


# Ways to write one tensor; those to write a module's are below.
WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    ".data.copy_": lambda tensor, values: tensor.data.copy_(values),
    ".data =": lambda tensor, values: setattr(tensor, "data", values.to(tensor.dtype)),
    "element by element": _one_by_one,
    "detach().copy_": lambda tensor, values: tensor.detach().copy_(values),
    "no_grad": _no_grad,
    "inference_mode": _inference,
    "set_": _set,
    "numpy": lambda tensor, values: tensor.detach().view(torch.int16).numpy().__setitem__(
        ..., values.to(tensor.dtype).view(torch.int16).numpy()
    ) if tensor.itemsize == 2 else tensor.detach().numpy().__setitem__(..., values.numpy()),
    "ema_update_ without masters": lambda tensor, values: SF.ema_update_([tensor], [values], 0.0),
    "foreach": lambda tensor, values: torch._foreach_copy_([tensor.data], [values]),
}  # fmt: skip


def _load(teacher: nn.Module, values: nn.Module, **options: bool) -> None:
    teacher.load_state_dict(values.state_dict(), **options)


MODULE_WRITES: dict[str, Callable[[nn.Module, nn.Module], object]] = {
    "load_state_dict": _load,
    "load_state_dict(assign)": lambda teacher, values: _load(teacher, copy.deepcopy(values), assign=True),
    "vector_to_parameters": lambda teacher, values: vector_to_parameters(
        parameters_to_vector(values.parameters()).detach(), teacher.parameters()
    ),
    "new Parameter": lambda teacher, values: [
        setattr(teacher, name, nn.Parameter(p.detach().clone())) for name, p in values.named_parameters()
    ],
    "update_momentum": lambda teacher, values: sk.update_momentum(values, teacher, 0.0),
    "lerp of an optimizer": lambda teacher, values: [
        p.data.lerp_(q.data, 1.0) for p, q in zip(teacher.parameters(), values.parameters(), strict=True)
    ],
}
for _name, _write in WRITES.items():
    MODULE_WRITES[_name] = lambda teacher, values, write=_write: [
        write(p, q.detach().clone()) for p, q in zip(teacher.parameters(), values.parameters(), strict=True)
    ]


def linear(seed: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(7, 5).to(dtype)


@pytest.mark.parametrize("way", MODULE_WRITES)
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32), ids=str)
def test_a_teacher_that_was_written_goes_on_from_there(dtype: torch.dtype, way: str, backend: str) -> None:
    student, values = linear(0, dtype), linear(1, dtype)
    for updates in (0, 3):
        teacher = sk.EMA(linear(2, dtype), momentum=0.5, master=True, backend=backend)
        for _ in range(updates):
            teacher.update(student)
        MODULE_WRITES[way](teacher.module, values)
        teacher.update(student)
        teacher.update(student)
        for p, q, s in zip(teacher.module.parameters(), values.parameters(), student.parameters(), strict=True):
            expected = 0.25 * q.double() + 0.75 * s.double()
            assert (p.double() - expected).abs().max() <= torch.finfo(dtype).eps * expected.abs().max()
        for place, p in enumerate(teacher.module.parameters()):
            if dtype != torch.float32:
                assert torch.equal(getattr(teacher, f"master{place}").to(dtype), p)


def test_elements_that_nobody_wrote_keep_their_master() -> None:
    student = linear(0, torch.bfloat16)
    teacher = sk.EMA(linear(2, torch.bfloat16), momentum=0.9, master=True)
    untouched = sk.EMA(linear(2, torch.bfloat16), momentum=0.9, master=True)
    for each in (teacher, untouched):
        each.update(student)
    teacher.module.weight.data[2] = 3.0
    for each in (teacher, untouched):
        each.update(student)
    rows = torch.arange(5) != 2
    assert torch.equal(teacher.master0[rows], untouched.master0[rows])
    torch.testing.assert_close(teacher.master0[2], 0.9 * 3 + 0.1 * student.weight[2].float().detach())


CONVERSIONS: dict[str, Callable[[sk.EMA], object]] = {
    "teacher.to": lambda teacher: teacher.to(torch.float16),
    "module.to": lambda teacher: teacher.module.to(torch.float16),
    "parameter.data": lambda teacher: [setattr(p, "data", p.data.half()) for p in teacher.module.parameters()],
    "there and back": lambda teacher: teacher.float().half(),
    "module there and back": lambda teacher: teacher.module.float().half(),
    "layout": lambda teacher: teacher.module.half().weight.data.set_(teacher.module.weight.data.T.contiguous().T),
    "replaced": lambda teacher: setattr(teacher, "module", copy.deepcopy(teacher.module).half()),
}


@pytest.mark.parametrize("start", (torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("way", CONVERSIONS)
def test_masters_are_there_wherever_a_parameter_has_16_bits(way: str, start: torch.dtype) -> None:
    student = linear(0, torch.float32)
    teacher = sk.EMA(linear(2, torch.float32).to(start), momentum=0.999, master=True)
    teacher.update(student)
    before = [p.double() for p in teacher.module.parameters()]
    CONVERSIONS[way](teacher)
    for _ in range(300):
        teacher.update(student)
    for place, (was, s) in enumerate(zip(before, student.parameters(), strict=True)):
        expected = s.double() + 0.999**300 * (was - s.double())
        assert (getattr(teacher, f"master{place}") - expected).abs().max() < 5e-3
    teacher.module.float()
    teacher.update(student)
    assert not list(teacher._buffers)


def test_conversions_keep_every_bit_of_a_master() -> None:
    student, teacher = linear(0, torch.float32), sk.EMA(linear(2, torch.bfloat16), momentum=0.9, master=True)
    teacher.update(student)
    exact = teacher.master0.clone()
    assert torch.equal(teacher.half().module.weight, exact.half()) and torch.equal(teacher.master0, exact)
    assert torch.equal(teacher.float().module.weight, exact)
    assert torch.equal(teacher.bfloat16().master0, exact)


@pytest.mark.parametrize("saved", (True, False), ids=("masters saved", "none saved"))
@pytest.mark.parametrize("loading", (True, False), ids=("into masters", "into none"))
def test_states_with_and_without_masters(saved: bool, loading: bool) -> None:
    student, other = linear(0, torch.bfloat16), linear(1, torch.bfloat16)
    source = sk.EMA(linear(2, torch.bfloat16), momentum=0.9, master=saved)
    source.update(student)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target = sk.EMA(other, momentum=0.9, master=loading)
    target.load_state_dict(torch.load(file, weights_only=True), strict=loading or not saved)
    assert target.step == 0 and target.updates == 1
    for each in (source, target):
        each.update(student)
    if saved == loading:
        assert torch.equal(source.module.weight, target.module.weight)
    torch.testing.assert_close(source.module.weight, target.module.weight, rtol=2**-7, atol=0)


# These are all objects of the package that keep tensors from step to step. Each check writes to one, and expects the
# next step to begin there.


def _queue(write: Callable[[Tensor], object]) -> None:
    queue = sk.MemoryQueue(4, 3)
    queue.enqueue(torch.zeros(2, 3))
    write(queue.keys)
    values = queue.keys.clone()
    queue.enqueue(torch.full((1, 3), 7.0))
    values[2] = 7.0
    assert torch.equal(queue.keys, values) and int(queue.position) == 3


def _rows(write: Callable[[Tensor], object]) -> None:
    bank = sk.MemoryBank(4, 3, momentum=0.25)
    bank.update(torch.tensor([1]), torch.eye(3)[:1])
    write(bank.rows)
    values = bank.rows.clone()
    bank.update(torch.tensor([1]), torch.eye(3)[:1])
    values[1] = torch.nn.functional.normalize(0.25 * values[1] + 0.75 * torch.eye(3)[0], dim=0)
    torch.testing.assert_close(bank.rows, values)


def _center(write: Callable[[Tensor], object]) -> None:
    center = sk.Center(3, momentum=0.25)
    write(center.center)
    values = center.center.clone()
    center.collect(torch.eye(3)[:1])
    center.update(2 * torch.eye(3))
    torch.testing.assert_close(center.center, 0.25 * values + 0.75 * 2 * torch.eye(3)[:1])


def _bank(write: Callable[[Tensor], object]) -> None:
    loss = NTXentLoss(memory_bank_size=(4, 3))
    x = torch.randn(2, 3, requires_grad=True)
    loss(x, x.detach())
    write(loss.memory_bank.keys)
    values, unit = loss.memory_bank.keys.clone(), torch.nn.functional.normalize(x.detach(), dim=1)
    value = loss(x, x.detach())
    torch.testing.assert_close(value, SF.info_nce(x, x.detach(), negatives=values, temperature=0.5))
    torch.testing.assert_close(loss.memory_bank.keys, torch.cat([values[:2], unit]))


def _tico(write: Callable[[Tensor], object]) -> None:
    loss, z = TiCoLoss(), torch.randn(4, 3)
    loss(z, z)
    write(loss.C)
    values = loss.C.clone()
    loss(z, z)
    unit = torch.nn.functional.normalize(z, dim=1)
    torch.testing.assert_close(loss.C, 0.9 * values + 0.1 * unit.T @ unit / 4)


def _direct(write: Callable[[Tensor], object]) -> None:
    predictor, x = DirectPred(3), torch.randn(9, 3)
    predictor(x)
    predictor.after_step()
    write(predictor.correlation)
    values = predictor.correlation.clone()
    predictor(x)
    predictor.after_step()
    torch.testing.assert_close(predictor.correlation, 0.3 * values + 0.7 * x.T @ x / 9)


def _method(make: Callable[..., nn.Module]) -> Callable[[Callable[[Tensor], object]], None]:
    def check(write: Callable[[Tensor], object]) -> None:
        method = make(nn.Linear(3, 3), feature_dim=3, projection_dim=3, momentum=0.5)
        method.after_step(0, 2)
        before = method.teacher.module[0].weight
        write(before)
        values, m = before.clone(), method.teacher.momentum_at(1, 2)
        method.after_step(1, 2)
        expected = m * values + (1 - m) * method.backbone.weight.detach()
        torch.testing.assert_close(method.teacher.module[0].weight, expected)

    return check


HOLDERS: dict[str, Callable[[Callable[[Tensor], object]], None]] = {
    "MemoryQueue": _queue,
    "MemoryBank": _rows,
    "Center": _center,
    "NTXentLoss": _bank,
    "TiCoLoss": _tico,
    "DirectPred": _direct,
    "MoCoV2": _method(MoCoV2),
    **{make.__name__: _method(partial(make, hidden_dim=4)) for make in (BYOL, MoBY, MoCoV3)},
}


@pytest.mark.parametrize("way", WRITES)
@pytest.mark.parametrize("holder", HOLDERS)
def test_every_holder_goes_on_from_what_was_written(holder: str, way: str) -> None:
    def write(tensor: Tensor) -> None:
        values = torch.randn(tensor.shape)
        WRITES[way](tensor, values)
        assert torch.equal(tensor, values.to(tensor.dtype))

    HOLDERS[holder](write)
