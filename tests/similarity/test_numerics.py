# SPDX-License-Identifier: Apache-2.0
"""Test numbers at the edges: temperatures, magnitudes, layouts, NaN and infinity, low precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
import torch.nn.functional as F
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.ops.rows import row_dot, unit_rows

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

SIZES = (1, 2, 3, 17, 31, 33, 257)


def assert_gradients(actual: list[Tensor], expected: list[Tensor | None], tolerance: float) -> None:
    for given, exact in zip(actual, expected, strict=True):
        assert exact is not None
        allowed = tolerance * float(exact.abs().max()) + 1e-30
        torch.testing.assert_close(given.double(), exact, rtol=0, atol=allowed)


@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 0.1, 1.0, 1e3, -1e-3, -1.0])
@pytest.mark.parametrize("n, d", [(1, 257), (2, 1), (17, 31), (33, 3), (257, 2)])
def test_temperatures_from_a_thousandth_to_a_thousand(backend: str, n: int, d: int, temperature: float) -> None:
    z0, z1 = torch.randn(n, d, requires_grad=True), torch.randn(n, d, requires_grad=True)
    t = torch.tensor(temperature, requires_grad=True)
    loss = SF.nt_xent(z0, z1, temperature=t, backend=backend)
    loss.backward()
    exact = oracle.nt_xent(z0, z1, t.detach()).mean().detach()
    # fp32 rounds a unit row's cosine by some 1e-7, and this error is divided by the temperature.
    rounding = 2e-6 * (1 + 1 / abs(temperature))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=rounding)
    expected = rows_oracle.gradients(lambda a, b, t: oracle.nt_xent(a, b, t).mean(), [z0, z1, t])
    for leaf, gradient in zip((z0, z1, t), expected, strict=True):
        assert gradient is not None
        # A gradient is at most 2 / (temperature * length of its row), however much cancels inside it.
        size = float(gradient.abs().max()) + (1 + 1 / abs(temperature)) / n * float(1 / z0.detach().norm(dim=1).min())
        if leaf is t:
            size = float(gradient.abs()) + 1 / temperature**2
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0, atol=rounding * size)


@pytest.mark.parametrize("scale", [1e-3, 1e3, -1e3, -1.0, 0.0])
def test_any_real_scale(backend: str, scale: float) -> None:
    x, y = torch.randn(40, 9, requires_grad=True), torch.randn(33, 9, requires_grad=True)
    rows, columns = SF.logsumexp_similarity(x, y, scale, dim="both", backend=backend)
    expected = oracle.logsumexp_similarity(x, y, scale)
    allowed = oracle.rounding(x.detach(), y.detach(), scale, 2.0**-23)
    torch.testing.assert_close(rows.double(), expected[0], rtol=0, atol=allowed)
    torch.testing.assert_close(columns.double(), expected[1], rtol=0, atol=allowed)
    gradients = list(torch.autograd.grad(rows.sum() + columns.sum(), (x, y)))
    exact = rows_oracle.gradients(
        lambda x, y: sum(lse.sum() for lse in oracle.logsumexp_similarity(x, y, scale)), [x, y]
    )
    assert_gradients(gradients, exact, 2 * allowed)


@pytest.mark.parametrize("d", SIZES)
def test_large_values_without_normalisation(backend: str, d: int) -> None:
    """With logits of 1e8 and more, exp of any difference overflows or vanishes, so one pair decides each row."""
    x, y = 1e4 * torch.randn(33, d), 1e4 * torch.randn(17, d)
    x.requires_grad_(), y.requires_grad_()
    rows, columns = SF.logsumexp_similarity(x, y, dim="both", backend=backend)
    expected = oracle.logsumexp_similarity(x, y)
    largest = float((x.norm(dim=1).max() * y.norm(dim=1).max()).detach())
    torch.testing.assert_close(rows.double(), expected[0], rtol=0, atol=2e-6 * largest)
    torch.testing.assert_close(columns.double(), expected[1], rtol=0, atol=2e-6 * largest)
    # If two keys tie to within fp32 rounding, either answer is right; else the gradient is the winner's row.
    similarity = (x @ y.T).detach()
    top = similarity.double().topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > 4e-6 * largest
    assert clear.sum() >= 10
    winners = y.detach()[similarity.argmax(1)]
    for keys in (y, y.detach()):
        lse = SF.logsumexp_similarity(x, keys, backend=backend)
        (gradient,) = torch.autograd.grad(lse.sum(), x)
        torch.testing.assert_close(gradient[clear], winners[clear], rtol=2e-6, atol=0)
    for gradient in torch.autograd.grad(rows.sum() + columns.sum(), (x, y)):
        assert gradient.isfinite().all()


def test_x_with_itself_at_large_values(backend: str) -> None:
    x = (1e4 * torch.randn(65, 12)).requires_grad_()
    own = torch.arange(65)
    lse = SF.logsumexp_similarity(x, exclude=own, backend=backend)
    torch.testing.assert_close(lse.double(), oracle.logsumexp_similarity(x, exclude=own)[0], rtol=1e-5, atol=0)
    lse.sum().backward()
    exact = rows_oracle.gradients(lambda x: oracle.logsumexp_similarity(x, exclude=own)[0].sum(), [x])
    assert_gradients([x.grad], exact, 1e-5)


@pytest.mark.parametrize("loss", [SF.nt_xent, SF.info_nce], ids=["nt_xent", "info_nce"])
def test_large_values_in_a_loss(backend: str, loss: Callable[..., Tensor]) -> None:
    for normalize in (True, False):
        z0, z1 = (1e4 * torch.randn(20, 8)).requires_grad_(), (1e4 * torch.randn(20, 8)).requires_grad_()
        value = loss(z0, z1, normalize=normalize, backend=backend)
        value.backward()
        exact = getattr(oracle, loss.__name__)(z0, z1, normalize=normalize).mean().detach()
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-5)
        assert z0.grad.isfinite().all() and z1.grad.isfinite().all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e-20, 1e20, 1e30])
def test_rows_whose_squares_leave_the_range(magnitude: float) -> None:
    """The compiled kernel scales before it squares; rows below 1e-12 are divided by 1e-12."""
    z = magnitude * torch.randn(5, 7)
    torch.testing.assert_close(unit_rows(z, backend="cpu").double(), rows_oracle.unit(z), rtol=1e-5, atol=1e-30)


def test_duplicated_rows(backend: str) -> None:
    z = torch.randn(4, 6).repeat(5, 1)
    z0, z1 = z.clone().requires_grad_(), z.clone().requires_grad_()
    rows = SF.nt_xent(z0, z1, reduction="none", backend=backend)
    torch.testing.assert_close(rows.double(), oracle.nt_xent(z0, z1), rtol=1e-5, atol=1e-6)
    rows.mean().backward()
    exact = rows_oracle.gradients(lambda a, b: oracle.nt_xent(a, b).mean(), [z0, z1])
    for leaf, gradient in zip((z0, z1), exact, strict=True):
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=0, atol=1e-6)


def test_all_rows_the_same(backend: str) -> None:
    """All keys are equal: the loss is log(2N - 1), and every gradient is zero."""
    z0, z1 = torch.ones(8, 5, requires_grad=True), torch.ones(8, 5, requires_grad=True)
    loss = SF.nt_xent(z0, z1, backend=backend)
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(15.0).log())
    assert z0.grad.abs().max() < 1e-6 and z1.grad.abs().max() < 1e-6


@pytest.mark.parametrize("which", ["one", "all"])
def test_rows_of_zeros(backend: str, which: str) -> None:
    z0, z1 = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    z0[2 if which == "one" else slice(None)] = 0
    z0.requires_grad_(), z1.requires_grad_()
    rows = SF.nt_xent(z0, z1, reduction="none", backend=backend)
    torch.testing.assert_close(rows, oracle.nt_xent(z0, z1))
    rows.mean().backward()
    exact = rows_oracle.gradients(lambda a, b: oracle.nt_xent(a, b).mean(), [z0, z1])
    for leaf, gradient in zip((z0, z1), exact, strict=True):
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-9, atol=1e-9)


def layouts(n: int, d: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Make matrices of (n, d), one for each way to lie in memory."""
    storage = torch.randn(4 * (n + 1) * (d + 3) + 8).to(dtype)
    return {
        "transposed": storage[: n * d].view(d, n).T,
        "strided rows": storage[: n * (d + 3)].view(n, d + 3)[:, :d],
        "strided features": storage[: 2 * n * d].view(n, 2 * d)[:, ::2],
        "every other row": storage[: 2 * n * d].view(2 * n, d)[::2],
        "misaligned by one element": torch.as_strided(storage, (n, d), (d, 1), 1),
        "misaligned rows": torch.as_strided(storage, (n, d), (d + 1, 1), 3),
        "one row expanded": storage[:d].expand(n, d),
        "one feature expanded": storage[:n, None].expand(n, d),
        "overlapping rows": torch.as_strided(storage, (n, d), (1, 1), 1),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("n, d", [(1, 1), (5, 1), (19, 7), (34, 33)])
def test_layouts_give_what_a_contiguous_copy_gives(backend: str, n: int, d: int, dtype: torch.dtype) -> None:
    others = torch.randn(n, d).to(dtype)
    for name, z in layouts(n, d, dtype).items():
        before = z.clone()
        results = []
        for given in (z, before.contiguous().clone()):
            results.append([])
            for first, second in ((given, others), (others, given)):
                a, b = first.detach().requires_grad_(), second.detach().requires_grad_()
                rows, columns = SF.logsumexp_similarity(a, b, 0.3, dim="both", backend=backend)
                loss = rows.sum() + 2 * columns.sum() + SF.nt_xent(a, b, backend=backend)
                loss = loss + SF.info_nce(a, b, normalize=False, backend=backend)
                loss = loss + SF.logsumexp_similarity(a, backend=backend).sum()
                results[-1] += [loss.detach(), *torch.autograd.grad(loss, (a, b))]
        for actual, expected in zip(*results, strict=True):
            tolerance = 1e-5 if dtype in (torch.float32, torch.float64) else 2e-2
            torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=lambda m: f"{name}: {m}")  # noqa: B023
        assert torch.equal(z, before), f"{name}: the input was written"


def test_expanded_gradient(backend: str) -> None:
    """The backward of sum() sends a gradient of stride 0."""
    x = torch.randn(9, 4, requires_grad=True)
    (a,) = torch.autograd.grad(SF.logsumexp_similarity(x, backend=backend), x, torch.ones(1).expand(9))
    (b,) = torch.autograd.grad(SF.logsumexp_similarity(x, backend=backend), x, torch.ones(9))
    (u,) = torch.autograd.grad(unit_rows(x, backend=backend), x, torch.ones(1, 1).expand(9, 4))
    (v,) = torch.autograd.grad(unit_rows(x, backend=backend), x, torch.ones(9, 4))
    (r,) = torch.autograd.grad(row_dot(x, backend=backend), x, torch.ones(1).expand(9))
    assert torch.equal(a, b) and torch.equal(u, v)
    torch.testing.assert_close(r, 2 * x.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("n", [2, 40, 400])
def test_nan_and_infinity_come_out_as_nan(backend: str, bad: float, n: int, dtype: torch.dtype) -> None:
    """One bad entry makes the loss of every anchor that it touches NaN, forward and backward, and nothing hangs."""
    z0, z1 = torch.randn(n, 6).to(dtype), torch.randn(n, 6).to(dtype)
    z0[n // 2, 3] = bad
    z0.requires_grad_(), z1.requires_grad_()
    for loss in (SF.nt_xent, SF.info_nce):
        value = loss(z0, z1, backend=backend)
        first, second = torch.autograd.grad(value, (z0, z1))
        assert value.isnan() and first[n // 2].isnan().any() and second.isnan().any(), loss.__name__


@pytest.mark.parametrize("n", [3, 40, 400])
def test_nan_stays_in_the_rows_that_meet_it(backend: str, n: int) -> None:
    x, y = torch.randn(n, 6), torch.randn(n + 1, 6)
    x[n // 2] = torch.nan
    rows, columns = SF.logsumexp_similarity(x, y, dim="both", backend=backend)
    assert rows.isnan().tolist() == [i == n // 2 for i in range(n)]
    assert columns.isnan().all()
    itself = SF.logsumexp_similarity(x, backend=backend)
    assert itself.isnan().all()


def test_an_excluded_nan_is_not_met(backend: str) -> None:
    x, y = torch.randn(3, 6), torch.randn(5, 6)
    y[4] = torch.nan
    rows = SF.logsumexp_similarity(x, y, exclude=torch.full((3,), 4), backend=backend)
    expected = SF.logsumexp_similarity(x, y[:4], backend=backend)
    torch.testing.assert_close(rows, expected)


def test_infinite_logits(backend: str) -> None:
    """fp32 products overflow: +inf wins, and -inf is a term of zero."""
    x = torch.tensor([[1e30, 0.0]])
    assert SF.logsumexp_similarity(x, -x, 1.0, backend=backend).item() == -torch.inf
    over = SF.logsumexp_similarity(x, x, 1.0, backend=backend).item()
    assert over == torch.inf or over != over


def eager(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """Compute NT-Xent as it is usually written, in the dtype of its input."""
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    logits = (z @ z.T / temperature).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z0)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("noise", [0.05, 1.0], ids=["aligned", "loose"])
@pytest.mark.parametrize("n, d", [(33, 31), (128, 64)])
def test_low_precision_is_no_worse_than_eager(
    backend: str, n: int, d: int, noise: float, temperature: float, dtype: torch.dtype
) -> None:
    z0 = torch.randn(n, d)
    z1 = (z0 + noise * torch.randn(n, d)).to(dtype)
    z0 = z0.to(dtype)
    exact_loss = oracle.nt_xent(z0, z1, temperature).mean()
    exact = torch.cat(rows_oracle.gradients(lambda a, b: oracle.nt_xent(a, b, temperature).mean(), [z0, z1]))

    def measured(loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        a, b = z0.clone().requires_grad_(), z1.clone().requires_grad_()
        value = loss(a, b)
        value.backward()
        return value.double().detach(), torch.cat([a.grad, b.grad]).double()

    loss, gradient = measured(lambda a, b: SF.nt_xent(a, b, temperature=temperature, backend=backend))
    eager_loss, eager_gradient = measured(lambda a, b: eager(a, b, temperature))
    assert (loss - exact_loss).abs() <= (eager_loss - exact_loss).abs() + torch.finfo(dtype).eps * exact_loss.abs()
    assert (gradient - exact).norm() <= 1.2 * (eager_gradient - exact).norm()
    cosine = F.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0)
    eager_cosine = F.cosine_similarity(eager_gradient.flatten(), exact.flatten(), dim=0)
    assert 1 - cosine <= 1.2 * (1 - eager_cosine) + 1e-12
    # The gradient does not drift to one side: its length along the exact one is right to the dtype's rounding.
    bias = float((gradient * exact).sum() / exact.square().sum()) - 1
    eager_bias = float((eager_gradient * exact).sum() / exact.square().sum()) - 1
    assert abs(bias) <= max(abs(eager_bias), 2 * torch.finfo(dtype).eps)


def test_aligned_views_in_bfloat16(backend: str) -> None:
    """lse(all but self) - positive cancels here; it once gave a gradient error of 0.39, ten times that of eager."""
    z0 = torch.randn(128, 64)
    z1 = (z0 + 0.02 * torch.randn(128, 64)).bfloat16().requires_grad_()
    z0 = z0.bfloat16().requires_grad_()
    SF.nt_xent(z0, z1, temperature=0.1, backend=backend).backward()
    exact = torch.cat(rows_oracle.gradients(lambda a, b: oracle.nt_xent(a, b, 0.1).mean(), [z0, z1]))
    error = (torch.cat([z0.grad, z1.grad]).double() - exact).norm() / exact.norm()
    assert error < 0.06


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_sums_are_not_low_precision(backend: str, dtype: torch.dtype) -> None:
    """The log-sum-exp of given rows is right to fp32, whatever the rows' dtype."""
    x, y = torch.randn(70, 33).to(dtype), torch.randn(300, 33).to(dtype)
    rows = SF.logsumexp_similarity(x, y, 0.5, backend=backend)
    torch.testing.assert_close(rows.double(), oracle.logsumexp_similarity(x, y, 0.5)[0], rtol=0, atol=3e-5)


def test_values_at_the_top_of_float16(backend: str) -> None:
    x = torch.full((3, 4), 6e4, dtype=torch.float16)
    rows = SF.logsumexp_similarity(x, backend=backend)
    torch.testing.assert_close(rows.double(), oracle.logsumexp_similarity(x)[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(unit_rows(x, backend=backend).float(), torch.full((3, 4), 0.5))


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("temperature", [1e-3, 0.07, 1e3, -0.2])
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_full_sweep_of_temperatures(backend: str, n: int, d: int, temperature: float) -> None:
    z0 = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    z1 = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    SF.nt_xent(z0, z1, temperature=temperature, backend=backend).backward()
    exact = rows_oracle.gradients(lambda a, b: oracle.nt_xent(a, b, temperature).mean(), [z0, z1])
    for leaf, gradient in zip((z0, z1), exact, strict=True):
        size = float(gradient.abs().max()) + 1 / abs(temperature)
        torch.testing.assert_close(
            leaf.grad, gradient, rtol=0, atol=1e-10 * size / float(z0.detach().norm(dim=1).min())
        )
