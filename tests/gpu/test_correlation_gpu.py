# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the correlation family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import correlation_oracle
import pytest
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LOSSES = {
    "barlow_twins": (partial(SF.barlow_twins, lambd=0.2), partial(correlation_oracle.barlow_twins, lambd=0.2)),
    "vicreg": (SF.vicreg, correlation_oracle.vicreg),
}


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def views(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    z0 = torch.randn(n, d)
    return [z.to(device="cuda", dtype=dtype).requires_grad_() for z in (z0, z0 + 0.5 * torch.randn(n, d))]


@pytest.mark.parametrize("side", ["samples", "features"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n, d", [(2, 5), (33, 70), (100, 13), (256, 2048), (1000, 257)])
@pytest.mark.parametrize("loss", LOSSES)
def test_against_the_formula(loss: str, n: int, d: int, dtype: torch.dtype, side: str) -> None:
    ours, formula = LOSSES[loss]
    z0, z1 = views(n, d, dtype)
    value = ours(z0, z1, side=side, backend="triton")
    gradients = torch.autograd.grad(value, (z0, z1))
    leaves = [z.detach().double().cpu().requires_grad_() for z in (z0, z1)]
    exact = formula(*leaves)
    close = max(1e-4, torch.finfo(dtype).eps * (1 + n / d if side == "samples" else 1))
    torch.testing.assert_close(value.double().cpu(), exact.detach(), rtol=close, atol=close)
    for gradient, slope in zip(gradients, torch.autograd.grad(exact, leaves), strict=True):
        size = float(slope.norm()) + 1e-3 * n**0.5
        assert (gradient.double().cpu() - slope).norm() <= close * size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n, d", [(64, 512), (512, 64)])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_graph_replays(loss: str, n: int, d: int, dtype: torch.dtype) -> None:
    z0, z1 = views(n, d, dtype)

    def step() -> tuple[Tensor, ...]:
        value = LOSSES[loss][0](z0, z1, backend="triton")
        return value, *torch.autograd.grad(value, (z0, z1))

    assert_captured(step, lambda: z0.copy_(z1.roll(1, 0) * 2 + 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_wide_column_hides_nothing(dtype: torch.dtype) -> None:
    """On the side of samples the wide column's diagonal is a hundred times what is left once it is taken off."""
    z = torch.randn(64, 128)
    z[:, 0] *= 30
    z = z.to(device="cuda", dtype=dtype).requires_grad_()
    exact = z.detach().double().cpu().requires_grad_()
    value, wanted = SF.covariance_penalty(z, backend="triton"), correlation_oracle.covariance_penalty(exact)
    torch.testing.assert_close(value.double().cpu(), wanted, rtol=5e-3, atol=0)
    gradient, slope = torch.autograd.grad(value, z)[0].double().cpu(), torch.autograd.grad(wanted, exact)[0]
    for mine, theirs in ((gradient, slope), (gradient[:, 0], slope[:, 0])):
        assert (mine - theirs).norm() < torch.finfo(dtype).eps * theirs.norm()


def test_memory_is_that_of_the_smaller_side() -> None:
    z0, z1 = views(256, 8192, torch.float32)
    SF.barlow_twins(z0, z1, backend="triton").backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    SF.barlow_twins(z0, z1, backend="triton").backward()
    assert torch.cuda.max_memory_allocated() - before < 128 << 20  # the D x D matrix alone is 256 MiB
