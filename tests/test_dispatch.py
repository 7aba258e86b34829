# SPDX-License-Identifier: Apache-2.0
"""Ops skip the dispatcher where nothing watches, on the host and on one GPU, and run with that GPU as the current one.

There is no GPU here, so tensors of the host say that they are on one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import sslkernels
from sslkernels.ops.ema import EMA
from sslkernels.ops.registry import families
from sslkernels.ops.rows import reference
from sslkernels.ops.rows.schema import dot_forward

PACKAGE = Path(sslkernels.__file__).parent


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Tell on which way an op came to the reference: "direct", or through the "dispatcher"."""
    seen: list[str] = []
    real = reference.dot_forward

    def recorded(*arguments: Any) -> Tensor:
        files = {frame.filename for frame in inspect.stack(context=0)}
        seen.append("dispatcher" if any(name.endswith("torch/_ops.py") for name in files) else "direct")
        return real(*arguments)

    monkeypatch.setattr(reference, "dot_forward", recorded)
    yield seen


class OnGpus:
    """Let tensors of the host say that they are on the GPU of a number, 0 unless they have another."""

    def __init__(self, patch: pytest.MonkeyPatch, current: int = 0) -> None:
        self.numbers: dict[int, int] = {}
        self.current, self.entered = current, []
        patch.setattr(Tensor, "is_cpu", False)
        patch.setattr(Tensor, "is_cuda", True)
        patch.setattr(Tensor, "get_device", lambda x: self.numbers.get(id(x), 0))
        patch.setattr(torch.cuda, "current_device", lambda: self.current)
        patch.setattr(torch.cuda, "device", self._device)

    def _device(self, index: int) -> Any:
        gpus, before = self, self.current

        class Current:
            def __enter__(self) -> None:
                gpus.entered.append(index)
                gpus.current = index

            def __exit__(self, *_: object) -> None:
                gpus.current = before

        return Current()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> OnGpus:
    return OnGpus(monkeypatch)


def dot(x: Tensor, y: Tensor) -> Tensor:
    return dot_forward(x, y, 0, "reference")


def two() -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, 3, 5).unbind()
    return x.clone(), y.clone()


def test_plain_tensors_of_the_host_go_directly(ways: list[str]) -> None:
    x, y = two()
    torch.testing.assert_close(dot(x, torch.nn.Parameter(y)), (x * y).sum(1).detach())
    assert ways == ["direct"]


def test_plain_tensors_of_one_gpu_go_directly(ways: list[str], gpus: OnGpus) -> None:
    x, y = two()
    gpus.numbers = {id(x): 1, id(y): 1}
    dot(x, y)
    assert ways == ["direct"]


def test_tensors_of_two_gpus_go_through_the_dispatcher(ways: list[str], gpus: OnGpus) -> None:
    x, y = two()
    gpus.numbers = {id(y): 1}
    dot(x, y)
    assert ways == ["dispatcher"]


def test_stand_ins_without_a_number_go_through_the_dispatcher(ways: list[str], gpus: OnGpus) -> None:
    x, y = two()
    gpus.numbers = {id(x): -1, id(y): -1}
    dot(x, y)
    assert ways == ["dispatcher"]


def test_other_devices_go_through_the_dispatcher(ways: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "is_cpu", False)
    dot(*two())
    assert ways == ["dispatcher"]


@pytest.mark.parametrize("on_gpu", (False, True))
def test_negated_views_go_through_the_dispatcher(
    ways: list[str], on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_gpu:
        OnGpus(monkeypatch)
    x, y = two()
    negated = torch._neg_view(y)
    found = dot(x, negated)
    assert ways == ["dispatcher"]
    torch.testing.assert_close(found, -(x * y).sum(1))


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("on_gpu", (False, True))
def test_whoever_watches_sees_the_op(ways: list[str], on_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_gpu:
        OnGpus(monkeypatch)
    with Watching():
        dot(*two())
    assert ways == ["dispatcher"]


def test_fake_tensors_of_a_gpu_get_fake_results(ways: list[str]) -> None:
    with FakeTensorMode():
        x = torch.empty(3, 5, device="cuda")
        found = dot(x, x)
    assert found.device == x.device and found.shape == (3,)
    assert ways == []


@pytest.mark.parametrize("autocast", (False, True))
def test_the_gpu_of_the_tensors_is_current_while_an_op_runs(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus, during = OnGpus(monkeypatch, current=0), []

    def fails(*arguments: Any) -> Any:
        during.append(gpus.current)
        raise KeyError

    x, y = two()
    gpus.numbers = {id(x): 1, id(y): 1}
    monkeypatch.setattr(reference, "dot_forward", fails)
    with pytest.raises(KeyError), torch.autocast("cpu", enabled=autocast):
        dot(x, y)
    assert during == [1] and gpus.current == 0
    gpus.numbers = {}
    with pytest.raises(KeyError), torch.autocast("cpu", enabled=autocast):
        dot(x, y)
    assert during == [1, 0] and gpus.entered == [1], "a GPU that is current already need not be entered"


def test_structs_and_lists_have_their_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus, during = OnGpus(monkeypatch), []
    x, y = two()
    gpus.numbers = {id(x): 1, id(y): 1}
    stub = SimpleNamespace(update=lambda *_: during.append(gpus.current))
    monkeypatch.setitem(EMA._modules, "triton", stub)
    EMA.run("update", "triton", Fields((x,), (y,)), 0.5, None)
    assert during == [1]


class Fields(tuple):
    """Stand for a struct whose first field is a list of tensors."""

    def __new__(cls, *fields: Any) -> Any:
        return super().__new__(cls, fields)


def test_every_family_runs_through_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the op, `Family.run` makes the GPU current before the backend's function begins."""
    gpus = OnGpus(monkeypatch)
    x, _ = two()
    gpus.numbers = {id(x): 1}
    for family in families().values():
        for backend in {"triton", "cuda"}.intersection(family.kernels):
            for function in family.ops:
                during: list[int] = []
                monkeypatch.setitem(
                    family._modules, backend, SimpleNamespace(**{function: lambda *_, d=during: d.append(gpus.current)})
                )
                family.run(function, backend, x)
                assert during == [1], (family.name, backend, function)


def test_no_launch_is_outside_a_guard() -> None:
    """Launches are in modules of families, which `Family.run` calls, or stand in a guard of their own."""
    found: dict[str, bool] = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for launch, guarded in launches(ast.parse(path.read_text())):
            in_family = path.parent.parent.name == "ops" and path.name.startswith(("triton", "cuda"))
            found[f"{name}:{launch.lineno}"] = guarded or in_family
    assert len(found) > 30
    assert all(found.values()), [place for place, safe in found.items() if not safe]


def launches(tree: ast.Module) -> Iterator[tuple[ast.Call, bool]]:
    """Yield each call of a kernel, ``kernel[grid](...)``, and of the CUDA driver, and whether a guard is around it."""
    guards = ("device_of", "guard", "launching")

    def walk(node: ast.AST, guarded: bool) -> Iterator[tuple[ast.Call, bool]]:
        if isinstance(node, ast.With):
            names = [getattr(item.context_expr.func, "attr", "") or getattr(item.context_expr.func, "id", "")
                     for item in node.items if isinstance(item.context_expr, ast.Call)]  # fmt: skip
            guarded = guarded or any(name in guards for name in names)
        if isinstance(node, ast.Call) and is_launch(node.func):
            yield node, guarded
        for child in ast.iter_child_nodes(node):
            yield from walk(child, guarded)

    def is_launch(function: ast.AST) -> bool:
        if isinstance(function, ast.Subscript):
            return ast.unparse(function.value).endswith("_kernel")
        return ast.unparse(function) in ("launch", "cuda.launch", "_C.cuda_launch")

    return walk(tree, False)


def test_a_launch_without_a_guard_is_found() -> None:
    bare: Callable[[str], list[bool]] = lambda text: [guarded for _, guarded in launches(ast.parse(text))]  # noqa: E731
    assert bare("kernels.some_kernel[(1,)](x)") == [False]
    assert bare("with torch.cuda.device_of(x):\n    for y in z:\n        some_kernel[(1,)](x)") == [True]
    assert bare("_C.cuda_launch(1)\nwith gpu.guard(x):\n    launch(1)") == [False, True]
