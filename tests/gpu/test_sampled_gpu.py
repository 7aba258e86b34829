# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of sampled products on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

import formulas
import pytest
import torch
from captured import assert_captured
from torch import Tensor

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def problem(n: int, m: int, k: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    index = torch.randint(0, m, (n, k)).masked_fill(torch.rand(n, k) < 0.1, -1)
    x, y = (torch.randn(rows, d).to(device="cuda", dtype=dtype).requires_grad_() for rows in (n, m))
    return x, y, index.cuda()


def exact(*leaves: Tensor) -> list[Tensor]:
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n, m, k, d", [(1, 1, 1, 1), (33, 17, 70, 65), (256, 300, 100, 256), (7, 40, 5000, 128)])
def test_values_and_gradients(n: int, m: int, k: int, d: int, dtype: torch.dtype) -> None:
    x, y, index = problem(n, m, k, d, dtype)
    out = SF.gather_similarity(x, y, index, 0.3, backend="triton")
    leaves = exact(x, y)
    wanted = formulas.gather_similarity(*leaves, index, 0.3)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-4)
    grad = torch.randn(n, k, device="cuda").masked_fill(index < 0, torch.nan)
    slopes = torch.autograd.grad(wanted, leaves, grad.nan_to_num().double())
    for gradient, slope in zip(torch.autograd.grad(out, (x, y), grad), slopes, strict=True):
        assert gradient.dtype == dtype
        close = torch.finfo(dtype).eps
        torch.testing.assert_close(gradient.double(), slope, rtol=close, atol=1e-5 * float(slope.abs().max()) + close)


def test_the_same_bits_each_time() -> None:
    """There are no atomics, even where half of the entries name one row."""
    x, y, index = problem(300, 50, 60, 96, torch.float32)
    index[:, ::2] = 7
    grad = torch.randn(300, 60, device="cuda")
    runs = [torch.autograd.grad(SF.gather_similarity(x, y, index, backend="triton"), (x, y), grad) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))


def test_a_wrong_index_gives_nan() -> None:
    x, y, index = problem(4, 3, 5, 8, torch.float32)
    index[1, 2], index[3, 0] = 2**32 + 1, -2
    out = SF.gather_similarity(x, y, index, backend="triton")
    assert out.isnan().nonzero().tolist() == [[1, 2], [3, 0]]
    dx, dy = torch.autograd.grad(out, (x, y), torch.ones_like(out))
    assert dx.isnan().all(1).tolist() == [False, True, False, True] and dy.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_graph_replays(dtype: torch.dtype) -> None:
    x, y, index = problem(64, 80, 30, 64, dtype)

    def step() -> tuple[Tensor, ...]:
        out = SF.gather_similarity(x, y, index, 0.3, backend="triton")
        return out, *torch.autograd.grad(out, (x, y), torch.ones_like(out))

    assert_captured(step, lambda: x.mul_(0.5).add_(0.25))


def test_losses_wait_for_nothing() -> None:
    x, y, index = problem(64, 64, 20, 32, torch.float32)

    def losses() -> Tensor:
        sampled = SF.sampled_info_nce(x, y, y, index, backend="triton")
        graph = SF.graph_nt_xent(x, index, torch.ones(64, 20, device="cuda"), backend="triton")
        return sampled + graph + SF.mil_nce(x, y, index, backend="triton")

    losses().backward()  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
