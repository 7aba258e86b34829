# SPDX-License-Identifier: Apache-2.0
"""The recorder counts for an op as many launches as a reader of its code counts by hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import sslkernels.functional as SF
from sslkernels import cuda
from sslkernels.bench.cases import CASES
from sslkernels.bench.cases.case import Draw
from sslkernels.device import model
from sslkernels.device.launches import Recording, record
from sslkernels.device.targets import A100, H200, TARGETS
from sslkernels.ops import registry
from sslkernels.ops.rows import row_dot
from sslkernels.ops.tokens import cuda as tokens_cuda
from sslkernels.ops.work import Work

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed.", allow_module_level=True)

CUDA = torch.device("cuda", 0)


def recorded(op: Callable[..., Any], target: Any = H200, **shapes: tuple[int, ...]) -> Recording:
    """Record ``op`` on bfloat16 tensors of these shapes, which all require a gradient."""

    def inputs() -> dict[str, Tensor]:
        return {name: torch.empty(shape, dtype=torch.bfloat16).requires_grad_() for name, shape in shapes.items()}

    return record(inputs, op, target)


def names(recording: Recording, phase: str | None = None) -> list[str]:
    return [launch.name for launch in recording.launches if phase in (None, launch.phase)]


def test_kernels_are_counted_in_order() -> None:
    def op(x: Tensor, y: Tensor) -> Tensor:
        products = row_dot(x, y, backend="triton").detach()
        room = torch.empty_like(products)  # makes room and launches nothing, as views do
        return (products[None].T * torch.add(products, 1, out=room)[:, None]).view(-1).sum()

    assert names(recorded(op, x=(100, 64), y=(100, 64)), "forward") == ["row_dot_kernel", "add", "mul", "sum"]


def test_the_backward_is_recorded_and_its_first_gradient_is_given() -> None:
    def op(x: Tensor, y: Tensor) -> Tensor:
        return 2 * row_dot(x, y, backend="triton")

    recording = recorded(op, x=(100, 64), y=(100, 64))
    assert names(recording, "forward") == ["row_dot_kernel", "mul"]
    assert names(recording, "backward") == ["mul", "row_dot_backward_kernel", "row_dot_backward_kernel"]


def test_a_loss_in_one_call_is_as_plain_as_on_the_gpu() -> None:
    """Where something traces the call, the last product would be a product and a conversion for each side."""
    recording = recorded(lambda x, y: SF.byol_loss(x, y.detach(), backend="triton"), x=(4096, 256), y=(4096, 256))
    assert names(recording) == ["cosine_loss_kernel", "sum", "times_kernel"]


def test_a_launch_keeps_arguments_grid_and_options() -> None:
    recording = recorded(lambda x, y: row_dot(x, y, shift=3, backend="triton"), x=(100, 64), y=(100, 64))
    launch = recording.launches[0]
    # Rows of 64 features: 2048 numbers are 32 rows, and 100 rows take 4 programs.
    assert launch.grid == (4,) and launch.blocks == 4
    assert {name: launch.arguments[name] for name in ("n", "m", "d", "shift", "BLOCK_N", "BLOCK_D")} == {
        "n": 100, "m": 100, "d": 64, "shift": 3, "BLOCK_N": 32, "BLOCK_D": 64,
    }  # fmt: skip
    assert launch.arguments["x"].shape == (100, 64) and launch.arguments["x"].dtype == torch.bfloat16
    assert dict(launch.options) == {"num_warps": 4}


def test_a_build_is_specialised_as_triton_does_it() -> None:
    """Pointers and sizes that are multiples of 16 say so, sizes of 1 are constants, and n is told not to be either."""

    def build(n: int, d: int) -> tuple[dict[str, str], dict[str, Any], set[str]]:
        launch = recorded(lambda x: row_dot(x, backend="triton"), x=(n, d)).launches[0]
        name = dict(enumerate(launch.kernel.arg_names))
        constants = {name[place]: value for (place,), value in launch.build.constants}
        divisible = {name[place] for (place,), value in launch.build.attributes if "divisibility" in value}
        return dict(launch.build.signature), constants, divisible

    signature, constants, divisible = build(32, 48)
    assert signature["x"] == "*bf16" and signature["out"] == "*fp32" and signature["d"] == "i32"
    assert divisible == {"x", "y", "out", "d", "x_stride", "y_stride"} and "d" not in constants
    assert build(32, 40)[2] == {"x", "y", "out"}
    signature, constants, _ = build(1, 1)
    assert constants["d"] == 1 and signature["d"] == "constexpr" and signature["n"] == "i32"


def test_a_view_between_two_multiples_of_16_bytes_is_no_aligned_pointer() -> None:
    launch = recorded(lambda x: row_dot(x[:, 1:], backend="triton"), x=(32, 65)).launches[0]
    divisible = {launch.kernel.arg_names[place] for (place,), value in launch.build.attributes if "16" in value}
    assert divisible == {"out", "d"}


def test_compiled_kernels_are_recorded_with_blocks_and_threads() -> None:
    index = torch.zeros(256, 49, dtype=torch.int64)

    def op(x: Tensor) -> Tensor:
        return SF.gather_tokens(x, index.to(x.device), backend="cuda")

    copied, gathered = recorded(op, x=(256, 196, 1024)).launches[:2]
    assert (copied.name, copied.kind) == ("_to_copy", "copy")
    # 16 bytes are 8 numbers, so 32 of the 128 threads that a row would take; 8 rows of 49 in a block: 7 blocks a sample
    assert (gathered.name, gathered.kind) == ("gather_bf16_bf16_vector", "cuda")
    assert gathered.grid == (256 * 7, 1) and gathered.threads == 256


def test_memory_is_counted_while_it_is_held() -> None:
    def op(x: Tensor) -> Tensor:
        first = x.detach().float()  # 4096 bytes
        second = first + 1  # as many
        del first
        third = second * 2  # as many, when the first are free again
        return third.sum()  # 4 bytes

    assert recorded(op, x=(1024,)).peak_bytes == 8192 + 4


def test_a_second_step_is_recorded_since_the_first_makes_tables() -> None:
    calls = []

    def op(x: Tensor) -> Tensor:
        calls.append(names)
        return x * len(calls)

    launches = recorded(op, x=(4,)).launches
    assert len(calls) == 2 and launches[0].arguments["other"] == 2


def test_an_op_that_waits_for_the_device_fails() -> None:
    with pytest.raises(RuntimeError):
        recorded(lambda x: x * x.sum().item(), x=(4,))


def test_the_size_of_the_target_decides_the_grid() -> None:
    def programs(target: Any) -> int:
        recording = recorded(lambda x: SF.sigreg(x, num_slices=64, backend="triton"), target, x=(8192, 32))
        return next(launch.blocks for launch in recording.launches if launch.name == "sums_kernel")

    # Two blocks of slices; samples are split until a multiprocessor has four programs.
    assert (programs(H200), programs(A100)) == (4 * 132, 4 * 108)


def test_nothing_stays_behind() -> None:
    from triton.runtime.jit import JITFunction

    before = JITFunction.run, torch.cuda.device_count, torch.cuda.current_stream, tokens_cuda.launch
    recorded(lambda x: SF.gather_tokens(x, torch.zeros(2, 3, dtype=torch.int64, device=CUDA)), x=(2, 4, 8))
    assert before == (JITFunction.run, torch.cuda.device_count, torch.cuda.current_stream, tokens_cuda.launch)
    assert registry.is_plain() and tokens_cuda.launch is cuda.launch
    with FakeTensorMode():
        assert not registry.is_plain()
    assert "record_stream" not in vars(Tensor)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
@pytest.mark.parametrize("op", [op for op, case in CASES.items() if not case.not_recorded])
def test_every_op_of_the_benchmark_is_recorded_and_copies_nothing_from_the_host(op: str, target: Any) -> None:
    case = CASES[op]
    shape = next((size.shape for size in case.sizes if size.preset == "quick"), (64, 96, 32))
    draw = Draw(torch.float32, CUDA, torch.Generator())
    recording = record(lambda: case.inputs(shape, draw), lambda **inputs: case.ours(**inputs, backend=None), target)
    kinds = {launch.kind for launch in recording.launches}
    assert kinds & {"triton", "cuda"} and "copy" not in kinds, names(recording)


def test_addresses_of_compiled_kernels_are_their_tensors_again() -> None:
    index = torch.zeros(2, 3, dtype=torch.int64)

    def op(x: Tensor) -> Tensor:
        return SF.gather_tokens(x, index.to(x.device), backend="cuda")

    gathered = recorded(op, x=(2, 4, 8)).launches[1].arguments
    x, *_ = gathered["fields"]
    assert gathered["family"] == "tokens" and x.shape == (2, 4, 8) and x.dtype == torch.bfloat16
    tensors = [field for field in gathered["fields"] if isinstance(field, Tensor)]
    assert [tuple(tensor.shape) for tensor in tensors] == [(2, 4, 8), (1, 2, 3), (2, 3, 8)]


def test_the_bytes_of_compiled_kernels_are_counted() -> None:
    def gathered(x: Tensor) -> Tensor:
        return SF.gather_tokens(x, torch.empty(2, 3, dtype=torch.int64, device=x.device), backend="cuda")

    first, last = (launch for launch in recorded(gathered, x=(2, 4, 8)).launches if launch.kind == "cuda")
    # 6 rows of 8 numbers and 6 indices are read, 6 rows are written; the backward writes 8 rows.
    assert model.work_of(first) == Work(bytes_read=6 * 16 + 6 * 8, bytes_written=6 * 16)
    assert model.work_of(last) == Work(bytes_read=6 * 16 + 6 * 8, bytes_written=8 * 16)

    def updated(teacher: Tensor, student: Tensor) -> None:
        SF.ema_update_([teacher.detach().float()], [student], 0.9, backend="cuda")

    (updating,) = (
        launch for launch in recorded(updated, teacher=(10000,), student=(10000,)).launches if launch.kind == "cuda"
    )
    # Two chunks of 8192 numbers, the second in part; each has a row of 40 bytes in the table.
    assert updating.grid == (2, 1)
    assert model.work_of(updating) == Work(bytes_read=10000 * (4 + 2) + 2 * 40, bytes_written=10000 * 4)
