# SPDX-License-Identifier: Apache-2.0
"""Test the tokens family on a CUDA device, with the compiled kernels and with Triton's: ``pytest -m gpu``."""

from __future__ import annotations

import importlib
import importlib.util
import itertools

import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.ops.dtypes import wide
from sslkernels.ops.tokens import reference
from sslkernels.ops.tokens.schema import Masked

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
has_triton = importlib.util.find_spec("triton") is not None
every_backend = pytest.mark.parametrize(
    "backend",
    ["cuda", pytest.param("triton", marks=pytest.mark.skipif(not has_triton, reason="There is no Triton here."))],
)
several_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="There is one CUDA device.")
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_width = pytest.mark.parametrize("channels", [1, 3, 8, 33, 768])


def on_gpu(arguments: tuple) -> tuple:
    return tuple(
        x.cuda() if isinstance(x, Tensor) else Masked(*on_gpu(x)) if isinstance(x, Masked) else x for x in arguments
    )


def check(backend: str, name: str, *arguments: object, rounding: float = 0.0) -> None:
    module = importlib.import_module(f"sslkernels.ops.tokens.{backend}")
    ours, theirs = getattr(module, name)(*on_gpu(arguments)), getattr(reference, name)(*arguments)
    pairs = [(ours, theirs)] if isinstance(ours, Tensor) else zip(ours, theirs, strict=True)
    for our, their in pairs:
        torch.testing.assert_close(our.cpu(), their, rtol=rounding, atol=rounding, equal_nan=True)


def skip_float64(backend: str, dtype: torch.dtype) -> None:
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("The Triton kernels take no float64.")


@pytest.fixture(autouse=True)
def nan_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "check_bounds", lambda *_: None)


@every_backend
@every_dtype
@every_width
def test_gather_collect_and_sums(dtype: torch.dtype, channels: int, backend: str) -> None:
    skip_float64(backend, dtype)
    for kind, prefix, low in itertools.product((torch.int32, torch.int64), (0, 1), (0, -2)):
        x = torch.randn(5, prefix + 50, channels, dtype=wide(dtype)).to(dtype)
        index = torch.randint(low, 50 - low, (3, 5, 20), dtype=kind)
        fill = torch.randn(channels, dtype=wide(dtype))
        check(backend, "gather", x, index, fill, None, prefix, False, dtype)
        check(
            backend, "gather", x, index, None, torch.randn(50, channels, dtype=wide(dtype)), prefix, False, wide(dtype)
        )
        moved = torch.randn(15, prefix + 20, channels, dtype=wide(dtype)).to(dtype)
        for strict in (False, True):
            check(backend, "collect", moved, index, 50, fill, prefix, strict, dtype)
        check(backend, "sums", moved[:, prefix:], index, 50, rounding=64 * torch.finfo(wide(dtype)).eps)


@every_backend
def test_rows_that_many_indices_share(backend: str) -> None:
    """More arrive at a row than a block holds; sums go in the order of the index, one after another."""
    for sets, kept, length in ((1, 300, 3), (30, 7, 5), (2, 640, 1408), (1, 1, 1), (4, 40, 196)):
        moved, index = torch.randn(2 * sets, kept, 264), torch.randint(0, length, (sets, 2, kept))
        check(backend, "collect", moved, index, length, None, 0, False, torch.float32)
        for rows in (length, 1):
            check(backend, "sums", moved, index, rows, rounding=1e-5 * kept)


@every_backend
@every_dtype
def test_ranks_and_patches(dtype: torch.dtype, backend: str) -> None:
    skip_float64(backend, dtype)
    check(backend, "ranks", torch.rand(7, 196, dtype=wide(dtype)).to(dtype), 49)
    for patch in (3, 14, 16):
        images = torch.randn(2, 3, 4 * patch, 2 * patch, dtype=wide(dtype)).to(dtype)
        check(backend, "patches", images, torch.randint(-1, 9, (2, 5)), patch)


@every_backend
@every_dtype
@every_width
def test_errors_and_slopes(dtype: torch.dtype, channels: int, backend: str) -> None:
    skip_float64(backend, dtype)
    rounding = 256 * torch.finfo(wide(dtype)).eps
    for norm, beta in itertools.product(("none", "mae", "layer") if channels > 1 else ("none",), (0.0, 0.5)):
        pred, target = (torch.randn(3, 11, channels, dtype=wide(dtype)).to(dtype) for _ in range(2))
        weights, grad = torch.rand(3, 11, dtype=wide(dtype)), torch.tensor(-3.0, dtype=wide(dtype))
        slack = max(rounding, torch.finfo(dtype).eps)
        check(backend, "masked_error", Masked(pred, target, weights, norm, beta), None, True, rounding=slack)
        check(backend, "masked_error", Masked(pred, target, weights, norm, beta), grad, True, rounding=slack)


def step(x: Tensor, index: Tensor, order: Tensor, token: Tensor, backend: str) -> tuple[Tensor, ...]:
    visible = SF.apply_masks(x, [index, index.flip(1)], backend=backend).chunk(2)[0]
    restored = SF.restore_tokens(visible, order, token, backend=backend)
    mask = (order >= index.shape[1]).float()
    loss = SF.masked_mse(restored, x.detach(), mask, normalize_target=True, backend=backend)
    return loss, *torch.autograd.grad(loss, (x, token))


def inputs(device: str = "cuda") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    order = torch.rand(8, 196, device=device).argsort(1)
    x = torch.randn(8, 196, 768, device=device, requires_grad=True)
    return x, order[:, :49].contiguous(), order, torch.randn(768, device=device, requires_grad=True)


def assert_step_is_right(arguments: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> None:
    for ours, theirs in zip(found, step(*arguments, backend="reference"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@every_backend
def test_a_training_step_waits_for_nothing_and_bits_repeat(backend: str) -> None:
    arguments = inputs()
    first = step(*arguments, backend)
    assert_step_is_right(arguments, first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = [step(*arguments, backend) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for result in again for a, b in zip(first, result, strict=True))


@every_backend
def test_a_graph_replays_it(backend: str) -> None:
    arguments = inputs()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # kernels must be loaded before they are captured
        step(*arguments, backend)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(*arguments, backend)
    with torch.no_grad():
        arguments[0].copy_(torch.randn_like(arguments[0]))
    graph.replay()
    for ours, theirs in zip(captured, step(*arguments, backend), strict=True):
        assert torch.equal(ours, theirs)


@every_backend
def test_another_stream(backend: str) -> None:
    """Work goes to the current stream, behind what was put there before."""
    arguments = inputs()
    step(*arguments, backend)
    fresh, stream = torch.randn(8, 196, 768, device="cuda"), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        with torch.no_grad():
            arguments[0].copy_(fresh)
        found = step(*arguments, backend)
    torch.cuda.current_stream().wait_stream(stream)
    assert_step_is_right(arguments, found)


@several_devices
@every_backend
def test_a_device_that_is_not_current(backend: str) -> None:
    arguments = inputs("cuda:1")
    found = step(*arguments, backend)
    assert torch.cuda.current_device() == 0 and {x.get_device() for x in found} == {1}
    assert_step_is_right(arguments, found)


def test_offsets_beyond_32_bits() -> None:
    x = torch.empty(
        3, 1_400_000, 1024, dtype=torch.float16, device="cuda"
    )  # 8.6 GB; only rows that are read are written
    index = torch.tensor([[0, 1_399_999], [5, 1_399_999], [7, 1_399_998]], device="cuda")
    rows = torch.randn(3, 2, 1024, device="cuda").half()
    x[torch.arange(3, device="cuda")[:, None], index] = rows
    assert torch.equal(SF.gather_tokens(x, index, backend="cuda"), rows)
    del x
    back = SF.scatter_tokens(rows, index, 1_400_000, backend="cuda")
    assert torch.equal(back[torch.arange(3, device="cuda")[:, None], index], rows)


def test_cupy_arrays_are_read_where_they_lie() -> None:
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed.")
    import cupy

    x, index = torch.randn(2, 5, 8, device="cuda"), torch.randint(0, 5, (2, 3), device="cuda")
    ours = SF.gather_tokens(cupy.from_dlpack(x), cupy.from_dlpack(index), backend="cuda")
    assert torch.equal(ours, SF.gather_tokens(x, index, backend="reference"))
