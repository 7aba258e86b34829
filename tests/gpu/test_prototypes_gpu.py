# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend of the prototypes family on a CUDA device: ``pytest -m gpu``."""

from __future__ import annotations

from collections.abc import Iterator

import prototypes_oracle as oracle
import pytest
import torch
from captured import assert_captured

import sslkernels.functional as SF

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

CLOSE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", ((1, 1, 1, 1), (2, 33, 257, 17), (3, 70, 1000, 64)), ids=str)
def test_against_the_oracle(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    views, n, k, d = shape
    host = [torch.randn(size, d).div(d**0.25).to(dtype) for size in (views * n, k, n, k)]
    host[0] = host[0].view(views, n, d)
    leaves = [x.cuda().requires_grad_(place < 2) for place, x in enumerate(host)]
    twins = [x.double().requires_grad_(place < 2) for place, x in enumerate(host)]
    options = {"temperature": 0.7, "teacher_temperature": 0.4}
    bias = torch.randn(k)
    value = SF.prototype_cross_entropy(*leaves, **options, bias=bias.cuda(), backend="triton")
    exact = oracle.cross_entropy(*twins, **options, bias=bias)
    found, wanted = (torch.autograd.grad(x, of[:2]) for x, of in ((value, leaves), (exact, twins)))
    for one, other in zip((value, *found), (exact, *wanted), strict=True):
        one, other = one.detach().double().cpu(), other.detach()
        assert (one - other).abs().max() <= CLOSE[dtype] * (other.abs().max() + 1e-3)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_the_official_assignments(dtype: torch.dtype) -> None:
    rows, weight = torch.randn(70, 33).to(dtype), torch.randn(300, 33).to(dtype)
    u = SF.sinkhorn_bias(rows.cuda(), weight.cuda(), 0.5, backend="triton").double().cpu()
    logits = rows.double() @ weight.double().T / 0.5
    torch.testing.assert_close(torch.softmax(logits + u, 1), oracle.sinkhorn(logits, 3), rtol=2e-4, atol=2e-5)


def test_no_table_of_rows_and_prototypes() -> None:
    rows = torch.randn(8192, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(65536, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.randn(8192, 64, device="cuda", dtype=torch.bfloat16)
    SF.prototype_cross_entropy(rows, weight, teacher).backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    SF.prototype_cross_entropy(rows, weight, teacher).backward()
    assert torch.cuda.max_memory_allocated() - before < 8192 * 65536  # half of one table in bfloat16


def test_a_graph_replays() -> None:
    leaves = [torch.randn(size, 32, device="cuda") for size in (64, 300, 64)]
    for leaf in leaves[:2]:
        leaf.requires_grad_()

    def step() -> tuple[torch.Tensor, ...]:
        bias = SF.sinkhorn_bias(leaves[2], leaves[1].detach(), 0.3)
        value = SF.prototype_cross_entropy(*leaves, bias=bias)
        return value, torch.autograd.grad(value, leaves[:2])[0]

    assert_captured(step, lambda: [leaf.mul_(0.5).add_(0.25) for leaf in leaves])
