# SPDX-License-Identifier: Apache-2.0
"""Test numbers at the edges: constant and far-off columns, decorrelated rows, cancellation, NaN, nearly equal views."""

from __future__ import annotations

from collections.abc import Callable

import correlation_oracle
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

SIDES = ("samples", "features")


def slopes(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves))


def relative(actual: Tensor, expected: Tensor) -> float:
    return float(((actual.double() - expected).norm() / expected.norm()).detach())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("convention", ["official", "stable-pretraining"])
def test_a_constant_column_is_finite(backend: str, convention: str, side: str) -> None:
    z0, z1 = torch.randn(9, 6), torch.randn(9, 6)
    z0[:, 2], z1[:, 2], z1[:, 4] = 3.0, -1.0, 0.0
    z0.requires_grad_(), z1.requires_grad_()
    for loss, formula in (
        (
            lambda a, b: SF.barlow_twins(a, b, convention=convention, side=side, backend=backend),
            lambda a, b: correlation_oracle.barlow_twins(a, b, convention=convention),
        ),
        (
            lambda a, b: SF.vicreg(a, b, side=side, backend=backend),
            correlation_oracle.vicreg,
        ),
    ):
        value = loss(z0, z1)
        torch.testing.assert_close(value.double(), formula(z0, z1), rtol=1e-5, atol=1e-5)
        leaves = [z.detach().double().requires_grad_() for z in (z0, z1)]
        for gradient, slope in zip(slopes(value, z0, z1), slopes(formula(*leaves), *leaves), strict=True):
            assert gradient.isfinite().all()
            moving = slope.isfinite()  # torch's std has no derivative at 0; ours is 0 there
            assert moving.sum() >= 9 * 4
            allowed = 1e-4 * float(slope[moving].abs().max())
            torch.testing.assert_close(gradient.double()[moving], slope[moving], rtol=0, atol=allowed)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("d", [1, 5])
def test_two_rows(backend: str, d: int, side: str) -> None:
    """Two rows are standardised to plus and minus one: the loss is a count, and its gradient vanishes but for eps."""
    z0, z1 = torch.randn(2, d, requires_grad=True), torch.randn(2, d, requires_grad=True)
    value = SF.barlow_twins(z0, z1, eps=0.0, side=side, backend=backend)
    signs = torch.sign((z0[0] - z0[1]) * (z1[0] - z1[1])).detach()
    torch.testing.assert_close(value, (1 - signs).square().sum() + 5e-3 * d * (d - 1), rtol=1e-5, atol=1e-5)
    for gradient, z in zip(slopes(value, z0, z1), (z0, z1), strict=True):
        nearest = (z[0] - z[1]).abs().min().item()
        assert float(gradient.abs().max()) < 1e-4 * (1 + d) / nearest


@pytest.mark.parametrize("side", SIDES)
def test_columns_far_from_zero(backend: str, side: str) -> None:
    """The mean is 1000 and the spread 1 or 0.01.

    Sums of squares about zero would lose six of seven digits, and columns minus a rounded mean are not centred.
    """
    spread = torch.tensor([1.0, 1e-2]).repeat(10)
    z0 = (spread * torch.randn(300, 20) + 1000).requires_grad_()
    z1 = (z0.detach() + spread * torch.randn(300, 20)).requires_grad_()
    for loss, formula in ((SF.barlow_twins, correlation_oracle.barlow_twins), (SF.vicreg, correlation_oracle.vicreg)):
        value = loss(z0, z1, side=side, backend=backend)
        leaves = [z.detach().double().requires_grad_() for z in (z0, z1)]
        exact = formula(*leaves)
        assert relative(value, exact) < 1e-5
        for gradient, slope in zip(slopes(value, z0, z1), slopes(exact, *leaves), strict=True):
            assert relative(gradient, slope) < 1e-6
            assert relative(gradient[:, 1::2], slope[:, 1::2]) < 1e-6


def decorrelated(n: int, d: int, noise: float) -> Tensor:
    """Make n rows with n - 1 columns orthogonal to each other and to ones, and zeros in the rest; then add noise."""
    generator = torch.Generator().manual_seed(n + d)
    square = torch.randn(n, n, generator=generator, dtype=torch.float64)
    square[:, 0] = 1
    columns = torch.linalg.qr(square).Q[:, 1:] * n**0.5
    z = torch.zeros(n, d, dtype=torch.float64)
    z[:, : n - 1] = columns[:, :d]
    return (z + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)).float()


@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e-1])
@pytest.mark.parametrize("n, d", [(64, 80), (96, 400), (40, 41)])
def test_cancellation_stays_within_its_bound(backend: str, n: int, d: int, noise: float) -> None:
    """The energy off the diagonal is far below that on it.

    On the side of samples the error is a rounding of all of C's energy, on that of features a rounding of the value.
    An entry of K sums D products in fp32, where small ones can drown: in the worst case 128 roundings (a chunk), 8e-6.
    The worst seen is 1.2e-6.
    """
    z = decorrelated(n, d, noise).requires_grad_()
    leaf = z.detach().double().requires_grad_()
    exact = correlation_oracle.covariance_penalty(leaf).detach()
    diagonal = float((leaf.var(0).square().sum() / d).detach())
    errors = {}
    for side in SIDES:
        value = SF.covariance_penalty(z, side=side, backend=backend)
        assert value >= 0
        bound = 4e-6 * (diagonal + float(exact)) if side == "samples" else 1e-4 * float(exact) + 1e-12 * diagonal
        assert abs(float(value.detach()) - float(exact)) <= bound, side
        if noise:
            (gradient,) = slopes(value, z)
            errors[side] = relative(gradient, slopes(correlation_oracle.covariance_penalty(leaf), leaf)[0])
    if noise:  # gradients lose less than a digit: on either side most of the error is the rounding of z itself
        assert errors["samples"] < 10 * errors["features"] + 1e-6


@pytest.mark.parametrize("side", SIDES)
def test_perfectly_decorrelated_rows_cost_nothing(backend: str, side: str) -> None:
    z = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]], requires_grad=True)
    penalty = SF.covariance_penalty(z, side=side, backend=backend)
    loss = SF.barlow_twins(z, z, eps=0.0, side=side, backend=backend)
    assert penalty == 0 and loss == 0
    assert all(not gradient.any() for gradient in slopes(penalty + loss, z))


@pytest.mark.parametrize("side", SIDES)
def test_nearly_equal_views_keep_their_gap(backend: str, side: str) -> None:
    """Views differ in the sixth digit; the invariance term and its gradient are right to five digits."""
    z0 = torch.randn(64, 30)
    z1 = z0 * (1 + 1e-6 * torch.randn(64, 30))
    z0.requires_grad_(), z1.requires_grad_()
    value = SF.vicreg(z0, z1, var=0.0, cov=0.0, side=side, backend=backend)
    difference = z0.detach().double() - z1.detach().double()
    assert relative(value, 25 * difference.square().mean()) < 1e-5
    for sign, gradient in zip((1, -1), slopes(value, z0, z1), strict=True):
        assert relative(gradient, sign * 50 * difference / difference.numel()) < 1e-5


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", [SF.barlow_twins, SF.vicreg], ids=["barlow_twins", "vicreg"])
def test_nan_comes_out(backend: str, loss: Callable[..., Tensor], side: str) -> None:
    z0, z1 = torch.randn(20, 9), torch.randn(20, 9)
    z0[3, 4] = torch.nan
    z0.requires_grad_()
    value = loss(z0, z1, side=side, backend=backend)
    assert value.isnan()
    assert slopes(value, z0)[0].isnan().any()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_large_rows(backend: str, dtype: torch.dtype, side: str) -> None:
    """Products far beyond float16's 65504 are summed in fp32."""
    z0, z1 = (300 * torch.randn(40, 24)).to(dtype), (300 * torch.randn(40, 24)).to(dtype)
    z0.requires_grad_(), z1.requires_grad_()
    diagonal, total = SF.cross_correlation_sq(z0, z1, side=side, backend=backend)
    exact = correlation_oracle.cross_correlation_sq(z0, z1)
    assert relative(total, exact[1].detach()) < 1e-5
    assert relative(diagonal, exact[0].detach()) < 1e-5
    leaves = [z.detach().double().requires_grad_() for z in (z0, z1)]
    wanted = slopes(correlation_oracle.cross_correlation_sq(*leaves)[1] * 1e-12, *leaves)
    for gradient, slope in zip(slopes(total * 1e-12, z0, z1), wanted, strict=True):
        assert relative(gradient, slope) < max(2e-3 if dtype == torch.float16 else 1e-5, torch.finfo(dtype).eps)


@pytest.mark.parametrize("n, d", [(24, 3000), (3000, 24)])
def test_threads_change_rounding_alone(n: int, d: int, set_threads: Callable[[int], None]) -> None:
    z = torch.randn(n, d)
    found = []
    for threads in (1, 2, 5):
        set_threads(threads)
        leaf = z.clone().requires_grad_()
        value = SF.covariance_penalty(leaf, backend="cpu")
        found.append((value.detach(), slopes(value, leaf)[0]))
    for value, gradient in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-6, atol=0)
        assert relative(gradient, found[0][1].double()) < 1e-6


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_one_wide_column_hides_nothing(backend: str, dtype: torch.dtype, side: str) -> None:
    """A column thirty times as wide has nearly all of C's energy, but the other columns keep their digits."""
    z = torch.randn(64, 128)
    z[:, 0] *= 30
    z = z.to(dtype)
    exact = correlation_oracle.covariance_penalty(z)
    value = SF.covariance_penalty(z, side=side, backend=backend)
    assert relative(value, exact) < (5e-3 if side == "features" and dtype != torch.float32 else 1e-4)


@pytest.mark.parametrize("constant", [0.0, 0.1])
def test_kin_of_vicreg_bear_a_constant_column(backend: str, constant: float) -> None:
    z, other = torch.randn(16, 4), torch.randn(16, 4)
    z[:, 1] = constant
    for loss in (SF.vibcreg, lambda a, b, **o: SF.frossl([a, b], **o), lambda a, b, **o: SF.vcreg(a, **o)):
        leaf = z.clone().requires_grad_()
        value = loss(leaf, other, backend=backend)
        assert value.isfinite() and slopes(value, leaf)[0].isfinite().all()
