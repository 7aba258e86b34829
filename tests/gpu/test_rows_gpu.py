# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the rows family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import rows_oracle
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.rows.cosine import row_cosine

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [(1, 3), (33, 17), (100, 256), (257, 2048), (4096, 256)]
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "byol_loss": (SF.byol_loss, lambda cosines: (2 - 2 * cosines).mean()),
    "negative_cosine_similarity": (SF.negative_cosine_similarity, lambda cosines: -cosines.mean()),
}


def pair_of(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(n, d)
    return [z.to(device="cuda", dtype=dtype).requires_grad_() for z in (x, x + torch.randn(n, d))]


def cosines_of(x: Tensor, y: Tensor) -> Tensor:
    """Compute the cosines in float64, all rows at once; `rows_oracle` takes them one by one."""
    x, y = x.double(), y.double()
    return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))


def assert_near(gradients: tuple[Tensor, ...], slopes: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    """Compare with float64: a rounding of the gradient, and a few of float32 of the largest term."""
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert gradient.dtype == dtype
        close = torch.finfo(dtype).eps + 2e-6
        atol = close * float(slope.abs().max()) + 2.0**-24 * (dtype == torch.float16)
        torch.testing.assert_close(gradient.double().cpu(), slope, rtol=close, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n, d", SHAPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses(loss: str, n: int, d: int, dtype: torch.dtype) -> None:
    ours, of_cosines = LOSSES[loss]
    x, y = pair_of(n, d, dtype)
    exact = [z.detach().cpu().double().requires_grad_() for z in (x, y)]
    wanted = of_cosines(cosines_of(*exact))
    value = ours(x, y, backend="triton")
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double().cpu(), wanted, rtol=1e-5, atol=1e-5)
    assert_near(torch.autograd.grad(value, (x, y)), torch.autograd.grad(wanted, exact), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n, d", SHAPES[:4])
def test_cosines_one_by_one(n: int, d: int, dtype: torch.dtype) -> None:
    x, y = pair_of(n, d, dtype)
    exact = [z.detach().cpu().double().requires_grad_() for z in (x, y)]
    cosines, wanted = row_cosine(x, y, 1e-8, backend="triton"), cosines_of(*exact)
    torch.testing.assert_close(
        cosines.double().cpu(), rows_oracle.cosine(*(z.detach() for z in exact)), rtol=0, atol=1e-6
    )
    weight = torch.randn(n)
    gradients = torch.autograd.grad(cosines, (x, y), weight.cuda())
    assert_near(gradients, torch.autograd.grad(wanted, exact, weight.double()), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n, d", SHAPES[:4])
def test_unit_rows_and_dots(n: int, d: int, dtype: torch.dtype) -> None:
    x, y = pair_of(n, d, dtype)
    exact = [z.detach().cpu().double().requires_grad_() for z in (x, y)]
    unit, wanted = unit_rows(x, backend="triton"), exact[0] / exact[0].norm(dim=1, keepdim=True)
    close = torch.finfo(dtype).eps
    torch.testing.assert_close(unit.double().cpu(), wanted, rtol=close, atol=4 * close)
    dots = row_dot(x, y, backend="triton")
    size = float((exact[0] * exact[1]).abs().sum(1).max())
    torch.testing.assert_close(dots.double().cpu(), (exact[0] * exact[1]).sum(1), rtol=0, atol=2e-6 * size)
    weight = torch.randn(n)
    gradients = torch.autograd.grad(dots, (x, y), weight.cuda())
    assert_near(gradients, torch.autograd.grad((exact[0] * exact[1]).sum(1), exact, weight.double()), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_graph_replays(loss: str, dtype: torch.dtype) -> None:
    x, y = pair_of(257, 384, dtype)

    def step() -> tuple[Tensor, ...]:
        value = LOSSES[loss][0](x, y, backend="triton")
        return value, *torch.autograd.grad(value, (x,))

    assert_captured(step, lambda: x.copy_(y.roll(1, 0)))


def test_a_row_of_zeros_and_more_rows_than_32_bits_of_numbers() -> None:
    x, y = pair_of(8, 64, torch.float32)
    with torch.no_grad():
        x[3] = 0
    value = SF.byol_loss(x, y, backend="triton")
    value.backward()
    assert value.isfinite() and x.grad.isfinite().all()
    n, d = 2**21 + 3, 1024
    far = torch.ones(1, d, device="cuda", dtype=torch.float16).expand(n, d).contiguous()
    far[-1, 0] = -1
    cosines = row_cosine(far, far.new_ones(1, d).expand(n, d), 1e-8, backend="triton")
    assert float(cosines[-1]) == pytest.approx(1 - 2 / d) and float(cosines[0]) == pytest.approx(1)
