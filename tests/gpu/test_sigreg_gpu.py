# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of SIGReg and LeJEPA on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sigreg_oracle
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Projections are formed in the dtype of the rows, and rounded to it.
CLOSE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape).to(device="cuda", dtype=dtype).requires_grad_()


def wide(z: Tensor) -> Tensor:
    return z.detach().cpu().double().requires_grad_()


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    close = CLOSE[dtype]
    atol = close * float(expected.detach().abs().max())
    torch.testing.assert_close(actual.detach().double().cpu(), expected.detach(), rtol=close, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "views, n, features, count", [(1, 2, 3, 1), (1, 257, 64, 100), (2, 1000, 33, 65), (4, 128, 256, 1024)]
)
@pytest.mark.parametrize("knots", [2, 17])
def test_against_the_dense_tensor(
    views: int, n: int, features: int, count: int, knots: int, dtype: torch.dtype
) -> None:
    z, slices = leaf(views, n, features, dtype=dtype), sigreg_oracle.unit_slices(features, count).to(dtype)
    exact = wide(z)
    value = SF.sigreg(z, slices.cuda(), knots=knots, backend="triton")
    wanted = sigreg_oracle.sigreg(exact, slices, knots)
    assert value.dtype == torch.float32
    assert_near(value, wanted, dtype)
    value.backward()
    wanted.backward()
    assert z.grad.dtype == dtype
    assert_near(z.grad, exact.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lejepa(dtype: torch.dtype) -> None:
    local, world = leaf(3, 200, 48, dtype=dtype), leaf(2, 200, 48, dtype=dtype)
    slices = sigreg_oracle.unit_slices(48, 96).to(dtype)
    exact = [wide(z) for z in (local, world)]
    value = SF.lejepa(local, world, slices.cuda(), weight=0.3, backend="triton")
    wanted = sigreg_oracle.lejepa(*exact, slices, 0.3)
    assert_near(value, wanted, dtype)
    value.backward()
    wanted.backward()
    for z, slope in zip((local, world), exact, strict=True):
        assert_near(z.grad, slope.grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_graph_replays(dtype: torch.dtype) -> None:
    z, slices = leaf(2, 300, 64, dtype=dtype), sigreg_oracle.unit_slices(64, 256).to(device="cuda", dtype=dtype)

    def step() -> tuple[Tensor, ...]:
        value = SF.sigreg(z, slices, backend="triton")
        return value, *torch.autograd.grad(value, (z,))

    assert_captured(step, lambda: z.mul_(0.5).add_(0.25))


def test_drawing_slices_waits_for_nothing() -> None:
    z = leaf(2, 300, 64, dtype=torch.float32)
    SF.sigreg(z, num_slices=64, backend="triton").backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        SF.sigreg(z, num_slices=64, backend="triton").backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_projections_beyond_every_bound() -> None:
    """Angles are reduced first, so that cosines and sines stay within 1."""
    z = (1e6 * torch.randn(1, 64, 16)).cuda()
    value = SF.sigreg(z, torch.eye(16, device="cuda"), backend="triton")
    assert value.isfinite() and 0 <= float(value) <= 64 * 8
