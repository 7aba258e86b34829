# SPDX-License-Identifier: Apache-2.0
"""Compare sampled products with float64, values and gradients, and check what they do with odd inputs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import sampled_oracle as oracle
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck

import sslkernels.functional as SF
from sslkernels.peak_memory import peak_memory

pytestmark = pytest.mark.usefixtures("poisoned_outputs")
# Errors of a value and of a gradient, as parts of the largest: products of rows are summed in float32.
CLOSE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
SHAPES = ((1, 1, 1, 1), (5, 7, 9, 3), (33, 5, 17, 70), (3, 70, 41, 16), (2, 9, 1100, 5), (65, 64, 8, 130))


def problem(
    n: int, m: int, k: int, d: int, dtype: torch.dtype = torch.float32, indices: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw x, y, an index and the gradient of the products; every seventh index or so stands for none."""
    index = torch.randint(0, m, (n, k)).masked_fill(torch.rand(n, k) < 0.15, -1).to(indices)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(n, d).to(dtype), torch.randn(m, d).to(dtype), index, torch.randn(n, k, dtype=wide)


def found(
    x: Tensor, y: Tensor, index: Tensor, scale: float, grad: Tensor, backend: str | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    x, y = (rows.detach().requires_grad_() for rows in (x, y))
    factor = torch.tensor(scale, dtype=grad.dtype, requires_grad=True)
    out = SF.gather_similarity(x, y, index, factor, backend=backend)
    return out.detach(), torch.autograd.grad(out, (x, y, factor), grad)


def check(x: Tensor, y: Tensor, index: Tensor, grad: Tensor, backend: str | None, scale: float = 0.7) -> None:
    out, gradients = found(x, y, index, scale, grad, backend)
    want = oracle.products(x, y, index, scale)
    close = CLOSE[x.dtype]
    assert out.dtype == grad.dtype and out.shape == index.shape
    there = want.isfinite()
    assert torch.equal(out.isfinite(), there) and (out[~there] == -torch.inf).all()
    size = max(1e-30, float(want[there].abs().max()) if there.any() else 0.0)
    torch.testing.assert_close(out[there].double(), want[there], rtol=0, atol=close * size)
    for leaf, gradient, slope in zip((x, y, grad), gradients, oracle.gradients(x, y, index, scale, grad), strict=True):
        assert gradient.dtype == leaf.dtype
        rounding = torch.finfo(leaf.dtype).eps / 2
        # Terms of a sum may cancel; the gradient of the scale is a sum over all pairs.
        largest = float(grad.abs().max()) if grad.numel() else 0.0
        terms = (1 + abs(scale)) * largest * (index.numel() * (1 if slope.dim() else x.shape[1])) ** 0.5
        torch.testing.assert_close(gradient.double(), slope, rtol=rounding, atol=3 * close * terms)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(backend: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(*problem(*shape, dtype, torch.int32 if shape[0] % 2 else torch.int64), backend)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_many_shapes(backend: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    n, m, k, d = torch.randint(1, 71, (4,), generator=draw).tolist()
    dtype, indices = list(CLOSE)[seed % 4], (torch.int64, torch.int32)[seed // 4 % 2]
    check(*problem(n, m, k, d, dtype, indices), backend, (-1.3, 1e-3, 20.0)[seed % 3])


def test_gradcheck(backend: str) -> None:
    x, y, index, _ = problem(4, 3, 5, 2, torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    present = index >= 0
    assert gradcheck(
        lambda x, y, scale: SF.gather_similarity(x, y, index, scale, backend=backend)[present],
        (x.requires_grad_(), y.requires_grad_(), scale),
    )


def test_strides(backend: str) -> None:
    """Rows may lie apart, be views of columns, or all be one; an index and a gradient may be views too."""
    x, y, index, grad = problem(6, 5, 8, 12)
    for rows in (torch.randn(6, 40)[:, 3:15], torch.randn(12, 6).T, torch.randn(1, 12).expand(6, 12), x):
        for pool in (torch.randn(10, 12)[::2], torch.randn(5, 24)[:, ::2], torch.randn(1, 12).expand(5, 12), y):
            check(rows, pool, index.T.contiguous().T, grad[:, :1].expand(6, 8), backend)


@pytest.mark.parametrize("shape", ((0, 4, 3, 2), (3, 0, 2, 4), (3, 4, 0, 2), (0, 0, 0, 1)), ids=str)
def test_empty(backend: str, shape: tuple[int, ...]) -> None:
    n, m, k, d = shape
    index = torch.full((n, k), -1) if m == 0 else torch.zeros((n, k), dtype=torch.int64)
    check(torch.randn(n, d), torch.randn(m, d), index, torch.randn(n, k), backend)


def test_a_gradient_where_there_is_no_pair_is_ignored(backend: str) -> None:
    x, y, index, grad = problem(7, 6, 9, 5)
    wanted = found(x, y, index, 0.5, grad, backend)[1]
    spoilt = found(x, y, index, 0.5, grad.masked_fill(index < 0, torch.nan), backend)[1]
    for one, other in zip(spoilt, wanted, strict=True):
        assert torch.equal(one, other)
    none = found(x, y, torch.full_like(index, -1), 0.5, grad, backend)[1]
    assert all((gradient == 0).all() for gradient in none)


def test_the_gradient_of_a_scale_of_zero(backend: str) -> None:
    check(*problem(5, 4, 6, 9), backend, 0.0)


@pytest.mark.parametrize("bad", (torch.nan, torch.inf, -torch.inf))
def test_what_is_no_number_stays_in_its_pairs(backend: str, bad: float) -> None:
    """It comes out as in the formula, and only in the pairs of its row."""
    x, y, index, grad = problem(6, 5, 7, 20)
    y[3, 11] = bad
    out, (dx, dy, _) = found(x, y, index, 1.0, grad, backend)
    plain = (x[:, None] * y[index.clamp_min(0)]).sum(2).masked_fill(index < 0, -torch.inf)
    torch.testing.assert_close(out, plain, equal_nan=True)
    assert torch.equal(dx.isfinite().all(1), (index != 3).all(1)) and dy.isfinite().all()
    torch.testing.assert_close(dx[:, 11], (grad * (index >= 0) * y[index.clamp_min(0), 11]).sum(1), equal_nan=True)


def test_nothing_is_computed_for_frozen_inputs(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from sslkernels.ops.sampled import schema

    asked: list[Any] = []
    plain = schema.backward
    monkeypatch.setattr(schema, "backward", lambda *given: asked.append(given[2:5]) or plain(*given))
    x, y, index, grad = problem(4, 3, 5, 2)
    every = found(x, y, index, 0.5, grad, backend)[1]
    for place in range(3):
        leaves = [x, y, torch.tensor(0.5)]
        leaves[place] = leaves[place].clone().requires_grad_()
        out = SF.gather_similarity(*leaves[:2], index, leaves[2], backend=backend)
        assert torch.equal(torch.autograd.grad(out, leaves[place], grad)[0], every[place])
        assert asked[-1] == tuple(other == place for other in range(3))


def test_any_number_of_threads_gives_the_same_bits(set_threads: Callable[[int], None]) -> None:
    """Half of the entries name one row, which all threads sum together, and the others are sorted in parallel."""
    x, y, index, grad = problem(300, 37, 40, 150)
    index[:, ::2] = 5
    results = []
    for threads in (1, 2, 3, 2):
        set_threads(threads)
        out, gradients = found(x, y, index, 0.3, grad, "cpu")
        results.append((out, *gradients))
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))
    reference = found(x, y, index, 0.3, grad, "reference")[1]
    for one, other in zip(results[0][1:], reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_long_sums_keep_their_digits() -> None:
    """A row of y that 200,000 entries name, and a row of x that names as many, are summed in two levels.

    One after the other they would be off by 2e-3.
    """
    n = 200_000
    ones, many = torch.ones(1, 3), torch.full((n, 3), 0.7)
    for x, y, shape in ((many, ones, (n, 1)), (ones, many, (1, n))):
        index = torch.arange(n).view(shape) if shape[0] == 1 else torch.zeros(shape, dtype=torch.int64)
        _, (dx, dy, dscale) = found(x, y, index, 1.0, torch.ones(shape), "cpu")
        long = dy if shape[1] == 1 else dx
        torch.testing.assert_close(long, torch.full((1, 3), 0.7 * n), rtol=2e-5, atol=0)
        torch.testing.assert_close(dscale, torch.tensor(2.1 * n), rtol=2e-5, atol=0)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
def test_no_worse_than_eager_in_16_bits(backend: str, dtype: torch.dtype) -> None:
    x, y, index, grad = problem(64, 50, 40, 96, dtype)
    index = index.clamp_min(0)
    out, (dx, dy, _) = found(x, y, index, 0.1, grad, backend)
    leaves = [rows.clone().requires_grad_() for rows in (x, y)]
    plain = 0.1 * torch.einsum("nd,nkd->nk", leaves[0], leaves[1][index])
    slopes = torch.autograd.grad(plain, leaves, grad.to(dtype))
    want = oracle.products(x, y, index, 0.1), *oracle.gradients(x, y, index, 0.1, grad)[:2]
    for ours, eager, exact in zip((out, dx, dy), (plain, *slopes), want, strict=True):
        assert (ours.double() - exact).abs().max() <= 1.1 * (eager.detach().double() - exact).abs().max()


def test_autocast_multiplies_in_its_dtype(backend: str) -> None:
    x, y, index, grad = problem(9, 8, 7, 33)
    x.requires_grad_(), y.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = SF.gather_similarity(x, y.bfloat16(), index, backend=backend)
    assert out.dtype == torch.float32
    there = index >= 0
    want = oracle.products(x.bfloat16(), y.bfloat16(), index, 1.0)
    torch.testing.assert_close(out[there].double(), want[there], rtol=0, atol=1e-5)
    assert all(gradient.dtype == torch.float32 for gradient in torch.autograd.grad(out, (x, y), grad))


def test_compiles_without_breaks_for_any_batch(backend: str) -> None:
    def loss(x: Tensor, y: Tensor, index: Tensor, scale: Tensor) -> Tensor:
        return SF.gather_similarity(2 * x, y, index, scale, backend=backend).logsumexp(1).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, m, k in ((5, 6, 4), (9, 4, 7)):
        x, y, index, _ = problem(n, m, k, 3)
        index[:, 0] = 1
        leaves = [x.requires_grad_(), y.requires_grad_(), scale := torch.tensor(0.5, requires_grad=True)]
        wanted = torch.autograd.grad(loss(x, y, index, scale), leaves)
        for one, other in zip(torch.autograd.grad(compiled(x, y, index, scale), leaves), wanted, strict=True):
            torch.testing.assert_close(one, other)


def test_a_wrong_index_in_a_compiled_graph_is_not_read(backend: str) -> None:
    """Nobody checks it there, as on a GPU: it counts as a row of NaN, which gets no gradient."""
    from sslkernels.ops.sampled import schema

    x, y, index, grad = problem(4, 3, 5, 2)
    index[1, 2], index[3, 0] = 3, -2
    sampled = schema.Sampled(x, y, index, torch.tensor(1.0))
    out = schema.forward(sampled, backend)
    assert out.isnan().nonzero().tolist() == [[1, 2], [3, 0]]
    dx, dy, dscale = schema.backward(sampled, grad, True, True, True, backend)
    assert dx.isnan().all(1).tolist() == [False, True, False, True] and dscale.isnan()
    right = index.masked_fill((index > 2) | (index < -1), -1)
    torch.testing.assert_close(dy, found(x, y, right, 1.0, grad, backend)[1][1])


def test_errors_say_what_came(backend: str) -> None:
    x, y, index, _ = problem(4, 3, 5, 2)
    for wrong, kind, sentence in (
        (index + 3, IndexError, "index holds 5; rows run from 0 to 2, and -1 stands for none"),
        (index - 1, IndexError, "index holds -2; rows run from 0 to 2"),
        (index[:3], ValueError, r"index has shape \(3, 5\) and x \(4, 2\); expected \(N, K\)"),
        (index[:, 0], ValueError, r"index has shape \(4,\)"),
        (index.float(), TypeError, "index has dtype torch.float32; accepted are int64 and int32"),
    ):
        if kind is IndexError:
            wrong[0, 0] = 5 if "holds 5" in sentence else -2
        with pytest.raises(kind, match=f"gather_similarity: {sentence}"):
            SF.gather_similarity(x, y, wrong, backend=backend)
    with pytest.raises(ValueError, match="both need the same number of features"):
        SF.gather_similarity(x, y[:, :1], index, backend=backend)


def test_no_buffer_of_the_rows() -> None:
    """Forward and backward take the result, its gradient, and 8 bytes for each pair, not 4 D."""
    n, m, k, d = 256, 512, 512, 128
    x, y, index, grad = problem(n, m, k, d)
    x.requires_grad_(), y.requires_grad_()

    def call() -> None:
        SF.gather_similarity(x, y, index).backward(grad)

    call()
    gc.collect()
    allowed = n * k * (4 + 8) + 4 * (n + m) * d + (4 << 20)
    assert peak_memory(call, torch.device("cpu")) < allowed < 4 * n * k * d / 6
