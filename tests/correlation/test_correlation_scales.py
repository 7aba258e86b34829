# SPDX-License-Identifier: Apache-2.0
"""Test every loss of columns on rows of 1e-30 to 1e30, columns of unlike scale, and entries that are not finite.

Values and gradients are those of float64 wherever float32 holds them.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import correlation_oracle
import numpy as np
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

SIDES = ("samples", "features")
LARGEST, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
Loss = Callable[..., Tensor]


def correlated(z: Tensor) -> Tensor:
    """Compute correlations of the columns; a constant column has none."""
    centred = z - z.mean(0)
    lengths = centred.norm(dim=0)
    unit = centred / torch.where(lengths == 0, 1, lengths)
    return correlation_oracle.off_diagonal(unit.T @ unit)


def vibcreg(z0: Tensor, z1: Tensor, eps: float = 1e-4) -> Tensor:
    hinges = sum(correlation_oracle.variance_hinge(z, eps) for z in (z0, z1))
    penalties = sum(correlated(z).square().sum() for z in (z0, z1))
    return 25 * (z0 - z1).square().mean() + 25 * hinges + 200 * penalties / z0.shape[1] ** 2


def frossl(*views: Tensor) -> Tensor:
    loss, columns = torch.zeros((), dtype=torch.float64), []
    for z in views:
        lengths = z.norm(dim=0)
        u = z / torch.where(lengths == 0, 1, lengths)
        columns.append(u)
        gram = u.T @ u
        loss = loss + (gram / gram.trace()).square().sum().log()
    middle = torch.stack(columns).mean(0)
    return loss + len(views) / len(views[0]) * sum((u - middle).square().sum() for u in columns)


def vcreg(z: Tensor) -> Tensor:
    return 12.5 * correlation_oracle.variance_hinge(z) + correlation_oracle.covariance_penalty(z)


def weighted(pair: tuple[Tensor, Tensor]) -> Tensor:
    diagonal, total = pair
    diagonal = diagonal.clamp(-LARGEST / 100, LARGEST / 100)  # infinities of both signs would have no sum
    return (diagonal * torch.linspace(1, 2, len(diagonal), dtype=diagonal.dtype)).sum() + total


def first(loss: Loss) -> Loss:
    """Turn a loss of one view into one of two."""
    return lambda a, b, **o: loss(a, **o) + 0 * b.sum().clamp(-1, 1)


def sideless(loss: Loss) -> Loss:
    return lambda a, b, side=None, **o: loss(a, b, **o)


LOSSES: dict[str, tuple[Loss, Loss]] = {
    "cross_correlation_sq": (
        lambda a, b, **o: weighted(SF.cross_correlation_sq(a, b, **o)),
        lambda a, b: weighted(correlation_oracle.cross_correlation_sq(a, b)),
    ),
    "barlow_twins": (SF.barlow_twins, correlation_oracle.barlow_twins),
    "barlow_twins eps=0": (
        lambda a, b, **o: SF.barlow_twins(a, b, eps=0.0, lambd=0.1, **o),
        lambda a, b: correlation_oracle.barlow_twins(a, b, 0.1, 0.0),
    ),
    "barlow_twins stable-pretraining": (
        lambda a, b, **o: SF.barlow_twins(a, b, convention="stable-pretraining", statistics="global", **o),
        lambda a, b: correlation_oracle.barlow_twins(a, b, convention="stable-pretraining"),
    ),
    "barlow_twins stable-pretraining eps=0": (
        lambda a, b, **o: SF.barlow_twins(a, b, eps=0.0, convention="stable-pretraining", **o),
        lambda a, b: correlation_oracle.barlow_twins(a, b, eps=0.0, convention="stable-pretraining"),
    ),
    "vicreg": (SF.vicreg, correlation_oracle.vicreg),
    "vicreg cov=0": (
        lambda a, b, **o: SF.vicreg(a, b, cov=0.0, eps=0.0, **o),
        lambda a, b: correlation_oracle.vicreg(a, b, cov=0.0, eps=0.0),
    ),
    "variance_hinge": (
        first(lambda a, side=None, **o: SF.variance_hinge(a, **o)),
        first(correlation_oracle.variance_hinge),
    ),
    "covariance_penalty": (first(SF.covariance_penalty), first(correlation_oracle.covariance_penalty)),
    "vcreg": (first(SF.vcreg), first(vcreg)),
    "vibcreg": (SF.vibcreg, vibcreg),
    "vibcreg sim=0": (
        lambda a, b, **o: SF.vibcreg(a, b, sim=0.0, var=0.0, **o),
        lambda a, b: 200 * sum(correlated(z).square().sum() for z in (a, b)) / a.shape[1] ** 2,
    ),
    "frossl": (lambda a, b, **o: SF.frossl([a, b], **o), frossl),
}


def views(n: int, d: int, scale: float | Tensor, mean: float = 0.0) -> tuple[Tensor, Tensor]:
    """Make two similar views in float32 with correlated columns, whose size is ``scale`` and whose mean is ``mean``."""
    shared, common = torch.randn(n, d, dtype=torch.float64), torch.randn(n, 1, dtype=torch.float64)
    z0, z1 = (scale * (shared + common + 0.5 * torch.randn(n, d, dtype=torch.float64) + mean) for _ in range(2))
    return z0.float(), z1.float()


def found(loss: Loss, z0: Tensor, z1: Tensor, **options: Any) -> list[Tensor]:
    leaves = [z.clone().requires_grad_() for z in (z0, z1)]
    value = loss(*leaves, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def assert_agree(name: str, side: str, backend: str, z0: Tensor, z1: Tensor, tolerance: float = 1e-4) -> None:
    ours, formula = LOSSES[name]
    got = found(ours, z0, z1, side=side, backend=backend)
    want = found(formula, z0.double(), z1.double())
    for what, (mine, exact) in zip(("value", "gradient 0", "gradient 1"), zip(got, want, strict=True), strict=True):
        assert_near(f"{what} of {name}", mine, exact, tolerance)


def assert_near(what: str, mine: Tensor, exact: Tensor, tolerance: float) -> None:
    """Compare column by column, so that none hides behind a larger one.

    A column that does not fit float32 may be infinite, or zeros. A value that overflows float32 must be infinite.
    """
    columns = exact.reshape(-1, 1) if exact.dim() < 2 else exact
    largest, error = columns.abs().amax(0), (mine.double().reshape(columns.shape) - columns).abs().amax(0)
    fits = (largest < LARGEST / 100) & (largest > SMALLEST * 100)
    off = (error[fits] / largest[fits]).tolist()
    assert all(x <= tolerance for x in off), f"{what}: columns off by {off} of their largest, {largest[fits].tolist()}"
    small = largest <= SMALLEST * 100
    assert (mine.reshape(columns.shape)[:, small].abs() < 1e4 * SMALLEST).all(), f"{what}: not next to nothing"
    if exact.dim() == 0 and largest > LARGEST:
        assert mine == math.inf, what


USUAL, EVERY = (-30, -18, -9, 8, 14, 30), (*range(-30, 31, 2), *range(-29, 31, 6))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_scale(backend: str, loss: str, side: str) -> None:
    for power in USUAL:
        assert_agree(loss, side, backend, *views(12, 7, 10.0**power))


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("n, d", [(5, 3), (4, 9), (12, 1), (40, 70), (70, 40)])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_power_and_shape(backend: str, loss: str, side: str, n: int, d: int) -> None:
    if d == 1 and side == "samples":
        pytest.skip("All there is on the diagonal is taken off again: rounding is left, a part of the diagonal.")
    for power in EVERY:
        assert_agree(loss, side, backend, *views(n, d, 10.0**power), 1e-3)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_columns_of_unlike_scale(backend: str, loss: str, side: str) -> None:
    """Columns with deviations from 1e-12 to 1e6 lie side by side.

    Losses that standardise columns lose nothing. Losses that sum covariances on the side of samples lose small columns
    in the rounding of the largest, as docs/design/correlation.md explains; they get milder scales here.
    """
    if side == "samples" and not loss.startswith(("barlow", "vibcreg", "frossl", "variance")):
        scale = torch.tensor([3.0, 1.0, 2.0, 0.5, 1.0, 1.5, 1.0], dtype=torch.float64)
    else:
        scale = 10.0 ** torch.tensor([-12, -6, -3, 0, 2, 4, 6], dtype=torch.float64)
    assert_agree(loss, side, backend, *views(12, 7, scale), 1e-3)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("loss", LOSSES)
def test_large_common_mean(backend: str, loss: str, side: str) -> None:
    """Means are thirty times the deviations, at both ends. frossl centres nothing; it is a thousandth of its terms."""
    for scale in (1e-20, 1e20):
        assert_agree(loss, side, backend, *views(12, 7, scale, mean=30.0), 1e-3)


@pytest.mark.parametrize("side", SIDES)
def test_a_small_column_beside_a_large_one_keeps_its_gradient(backend: str, side: str) -> None:
    """The gradient survives on the side of samples too, where one unit serves all columns of the matrix."""
    z, _ = views(12, 3, torch.tensor([1e8, 1e-20, 1e-25], dtype=torch.float64))
    got = found(LOSSES["covariance_penalty"][0], z, z, side=side, backend=backend)[1]
    want = found(LOSSES["covariance_penalty"][1], z.double(), z.double())[1]
    assert_near("gradient", got[:, 1:], want[:, 1:], 1e-5)


def test_a_zero_weight_silences_what_overflows(backend: str) -> None:
    z0, z1 = views(12, 7, 1e18)
    for side in SIDES:
        assert SF.vicreg(z0 * 1e12, z0 * 1e12, sim=0.0, cov=0.0, side=side, backend=backend) == 0
        assert SF.vcreg(z1 * 1e12, cov=0.0, side=side, backend=backend) == 0


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", ["cross_correlation_sq", "barlow_twins", "vicreg", "vibcreg", "frossl"])
def test_half_precision_at_both_ends_of_its_range(backend: str, loss: str, dtype: torch.dtype, side: str) -> None:
    """Squares, and rows minus their mean, are too large for float16, or smaller than its smallest number."""
    ours, formula = LOSSES[loss]
    rows = torch.cat([torch.full((11, 7), 0.99), torch.full((1, 7), -0.99)]) * torch.rand(12, 7).add(9).div(10)
    for scale in (6e4, 1.0, 1e-3):
        z0, z1 = (scale * rows).to(dtype), (scale * rows.roll(3, 0)).to(dtype)
        got = ours(z0, z1, side=side, backend=backend)
        want = formula(z0.double(), z1.double())
        torch.testing.assert_close(got.double(), want, rtol=8 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("n, d", [(1, 1), (1, 40), (2, 1), (2, 300), (3, 17), (33, 5), (64, 16), (200, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_moments_of_any_shape_and_strides(backend: str, dtype: torch.dtype, n: int, d: int) -> None:
    """Constant, tiny, huge and far-off columns lie side by side; rows lie apart, or on top of each other."""
    moments = importlib.import_module(f"sslkernels.ops.correlation.{backend}").moments
    kinds = [(1.0, 0.0), (0.0, 0.1), (1e-30, 0.0), (1e-20, 1e-20), (1e30, 0.0), (1e12, 1e15), (1e-3, 1e3), (0.0, 0.0)]
    if dtype == torch.float16:
        kinds = [(1.0, 0.0), (0.0, 0.1), (1e-6, 0.0), (1e4, 2e4), (0.0, 0.0)]
    spread, mean = torch.tensor([kinds[k % len(kinds)] for k in range(d)], dtype=torch.float64).T
    plain = [(spread * torch.randn(n, d).double() + mean).to(dtype) for _ in range(2)]
    wide = torch.zeros(2 * n, d + 3, dtype=dtype)
    wide[::2, 1 : d + 1] = plain[0]
    for z0, z1 in (plain, (wide[::2, 1 : d + 1], plain[1][:1].expand(n, d)), (plain[0][:1].expand(n, d), plain[1])):
        for centre in (True, False):
            middle, squares, products, gap = moments(z0, z1, centre)
            exact = [z.double().numpy().astype(np.longdouble) for z in (z0, z1)]
            about = [z.mean(0) if centre else np.zeros_like(z[0]) for z in exact]
            a, b = (z - at for z, at in zip(exact, about, strict=True))
            rounding = 1e-6 if dtype != torch.float64 else 1e-12
            for got, want in zip(squares.numpy(), ((a * a).sum(0), (b * b).sum(0)), strict=True):
                assert (abs(got - want) <= rounding * want).all()
            sizes = np.sqrt((a * a).sum(0) * (b * b).sum(0))
            assert (abs(products.numpy() - (a * b).sum(0)) <= rounding * sizes).all()
            apart = ((exact[0] - exact[1]) ** 2).sum()
            assert abs(gap.item() - apart) <= rounding * apart
            for got, want, z in zip(middle.double().numpy().sum(1), about, exact, strict=True):
                assert (abs(got - want) <= 1e-6 * abs(z - want).max(0) + 1e-15 * abs(want)).all()


def eager(formula: Loss, z0: Tensor, z1: Tensor) -> list[Tensor]:
    return found(formula, z0.double(), z1.double())


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("entry", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in ("cross_correlation_sq", "vibcreg sim=0")])
def test_an_entry_that_is_not_finite(backend: str, loss: str, entry: float, side: str) -> None:
    """The value is NaN, and the gradient is finite exactly where the formula's is."""
    ours, formula = LOSSES[loss]
    z0, z1 = views(9, 5, 1.0)
    z0[3, 2] = entry
    got, want = found(ours, z0, z1, side=side, backend=backend), eager(formula, z0, z1)
    for mine, exact in zip(got, want, strict=True):
        assert torch.equal(mine.isfinite(), exact.isfinite()), f"{mine} is not {exact}"
        close = exact.isfinite()
        torch.testing.assert_close(mine.double()[close], exact[close], rtol=1e-4, atol=1e-6)
