# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the sigmoid family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sigmoid_oracle
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

# float16 and bfloat16 round weights and gradients.
CLOSE = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
SCALE, BIAS = 3.0, -4.0


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def rows(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, d, device="cuda").div(d**0.5).to(dtype).requires_grad_()


def numbers() -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(value, device="cuda", requires_grad=True) for value in (SCALE, BIAS))


def assert_near(found: Tensor, wanted: Tensor, close: float) -> None:
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(found.detach().double().cpu(), wanted, rtol=0, atol=close * size)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("d", (1, 17, 128, 768))
@pytest.mark.parametrize(("n", "m"), ((1, 1), (33, 257), (1000, 1031), (700, None)), ids=str)
def test_sums(n: int, m: int | None, d: int, dtype: torch.dtype) -> None:
    x, y, (scale, bias) = rows(n, d, dtype), None if m is None else rows(m, d, dtype), numbers()
    weights = torch.randn(n)
    exact = sigmoid_oracle.exact(x.cpu(), (x if y is None else y).cpu(), SCALE, BIAS, weights)
    sums = SF.softplus_similarity(x, y, scale, bias, backend="triton")
    assert_near(sums, exact.sums, 3e-6)
    leaves = [x, scale, bias, *([] if y is None else [y])]
    dx, dscale, dbias, *dy = torch.autograd.grad(sums, leaves, weights.cuda())
    assert_near(dx, exact.dx if dy else exact.dx + exact.dy, CLOSE[dtype])
    for found in dy:
        assert_near(found, exact.dy, CLOSE[dtype])
    most = float(exact.sums.sum()) + 1
    assert abs(float(dscale) - float(exact.dscale)) < 3e-6 * most
    assert abs(float(dbias) - float(exact.dbias)) < 3e-6 * most


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(("n", "d"), ((1, 8), (257, 64), (2000, 512)))
def test_siglip(n: int, d: int, dtype: torch.dtype) -> None:
    image, text, (scale, bias) = rows(n, d, dtype), rows(n, d, dtype), numbers()
    exact = sigmoid_oracle.exact(image.cpu(), text.cpu(), SCALE, BIAS, torch.full((n,), 1 / n), paired=True)
    value = SF.siglip_loss(image, text, scale, bias, backend="triton")
    assert_near(value, exact.sums.mean(), 3e-6)
    with torch.no_grad():
        assert torch.equal(SF.siglip_loss(image, text, scale, bias, backend="triton"), value)
    slopes = torch.autograd.grad(value, (image, text, scale, bias))
    for found, wanted, close in zip(slopes, exact[1:], (CLOSE[dtype], CLOSE[dtype], 1e-4, 1e-4), strict=True):
        assert_near(found, wanted, close)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_a_graph_replays(dtype: torch.dtype) -> None:
    image, text, (scale, bias) = rows(300, 64, dtype), rows(300, 64, dtype), numbers()

    def step() -> tuple[Tensor, ...]:
        value = SF.siglip_loss(image, text, scale, bias, backend="triton")
        return value, *torch.autograd.grad(value, (image, text, scale, bias))

    assert_captured(step, lambda: image.mul_(0.5).add_(0.01))


def test_nothing_waits_for_the_device() -> None:
    image, text, (scale, bias) = rows(300, 64, torch.float16), rows(300, 64, torch.float16), numbers()
    SF.siglip_loss(image, text, scale, bias).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        SF.siglip_loss(image, text, scale, bias).backward()
        SF.softplus_similarity(image, None, scale, bias).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_does_not_grow_with_the_pairs() -> None:
    """32,768 rows have 2 GiB of 16-bit logits; a chunk of weights fits the workspace."""
    image, text = rows(32768, 128, torch.bfloat16), rows(32768, 128, torch.bfloat16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    SF.siglip_loss(image, text, 10.0, -10.0).backward()
    assert torch.cuda.max_memory_allocated() - before < 640 << 20
