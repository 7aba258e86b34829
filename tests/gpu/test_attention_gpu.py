# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the attention family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import attention_oracle as oracle
import pytest
import rows_oracle
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CLOSE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def leaves_of(n: int, m: int, d: int, dv: int, dtype: torch.dtype) -> list[Tensor]:
    rows = [torch.randn(n, d) / d**0.25, torch.randn(m, d) / d**0.25, torch.randn(m, dv)]
    rest = [torch.tensor(0.7), torch.randn(m)]
    return [x.cuda().requires_grad_() for x in (*(x.to(dtype) for x in rows), *rest)]


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype, beside: float = 0.0) -> None:
    atol = CLOSE[dtype] * (beside + float(expected.detach().abs().max()))
    torch.testing.assert_close(actual.detach().double().cpu(), expected.detach(), rtol=CLOSE[dtype], atol=atol)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize(
    "shape", ((1, 1, 1, 1), (3, 2, 17, 1), (129, 257, 64, 64), (300, 70, 33, 200), (64, 500, 300, 257)), ids=str
)
@pytest.mark.parametrize("excluded", (0, 2))
def test_against_the_oracle(shape: tuple[int, ...], dtype: torch.dtype, excluded: int) -> None:
    n, m, _, dv = shape
    leaves, grad = leaves_of(*shape, dtype), torch.randn(n, dv)
    exclude = torch.randint(-1, m, (n, excluded)) if excluded else None
    out = SF.attend_similarity(
        *leaves[:4], bias=leaves[4], exclude=None if exclude is None else exclude.cuda(), backend="triton"
    )
    host = [x.detach().cpu() for x in leaves]
    assert_near(out, oracle.attend_similarity(*host, exclude), dtype, 1.0)
    found = torch.autograd.grad(out, leaves, grad.cuda())
    exact = rows_oracle.gradients(lambda *x: (oracle.attend_similarity(*x, exclude) * grad).sum(), host)
    for place, (slope, right) in enumerate(zip(found, exact, strict=True)):
        right = torch.zeros_like(slope.cpu()).double() if right is None else right
        assert_near(slope, right, dtype, float(n) if place == 3 else 4.0)


@pytest.mark.parametrize("needs", range(1, 4))
def test_frozen_inputs(needs: int) -> None:
    """Values alone, queries alone, and both."""
    leaves = leaves_of(200, 300, 32, 48, torch.float32)
    wanted = [leaf for bit, leaf in ((1, leaves[2]), (2, leaves[0])) if needs & bit]
    whole = torch.autograd.grad(SF.attend_similarity(*leaves[:4], bias=leaves[4]).sin().sum(), wanted)
    given = [leaf if any(leaf is each for each in wanted) else leaf.detach() for leaf in leaves]
    part = torch.autograd.grad(SF.attend_similarity(*given[:4], bias=given[4]).sin().sum(), wanted)
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_same_bits_no_wait_and_no_matrix(dtype: torch.dtype) -> None:
    leaves = leaves_of(512, 20000, 64, 64, dtype)

    def step() -> tuple[Tensor, ...]:
        out = SF.attend_similarity(*leaves[:4], bias=leaves[4])
        return (out, *torch.autograd.grad(out.square().sum(), leaves))

    first = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        again = step()
        peak = torch.cuda.max_memory_allocated() - before
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    # A part of each gradient for every column of programs at most: far below a matrix and its gradient in float32.
    assert peak < 4 * 512 * 20000 * 2


def test_a_graph_replays() -> None:
    leaves = leaves_of(64, 100, 32, 16, torch.float32)

    def step() -> tuple[Tensor, ...]:
        out = SF.attend_similarity(*leaves[:4], bias=leaves[4])
        return out, *torch.autograd.grad(out.sum(), leaves)

    assert_captured(step, lambda: [leaf.mul_(0.5).add_(0.25) for leaf in leaves])
