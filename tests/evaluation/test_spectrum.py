# SPDX-License-Identifier: Apache-2.0
"""Ranks and spectra are those of their formulas, written plainly in NumPy, and of spectra that are known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from sslkernels.evaluation import alpha_req, coding_rate, feature_spread, matrix_entropy, rank_me, spectrum

SHAPES = [(40, 6), (6, 40), (9, 1), (1, 9), (7, 7)]


def rows(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def with_values(values: torch.Tensor, count: int) -> torch.Tensor:
    """Centred rows in float64 that have these singular values."""
    directions = torch.linalg.qr(rows(len(values), len(values)).double())[0]
    centred = rows(count, len(values), seed=1).double()
    return torch.linalg.qr(centred - centred.mean(0))[0] * values @ directions


def plain_rank(z: np.ndarray) -> float:
    values = np.linalg.svd(z, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def plain_alpha(z: np.ndarray, first: int, last: int) -> tuple[float, float]:
    found = np.sort(np.linalg.eigvalsh(np.cov(z.T, bias=True)))[::-1][first - 1 : last]
    x, y = np.log(np.arange(first, last + 1)), np.log(found)
    slope, start = np.polyfit(x, y, 1)
    return -slope, 1 - ((y - slope * x - start) ** 2).sum() / ((y - y.mean()) ** 2).sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_values_are_those_of_the_formulas(shape, dtype):
    features = (rows(*shape) + 0.3).to(dtype).requires_grad_()
    z = features.detach().double().numpy()
    count, dim = z.shape
    assert rank_me(features) == pytest.approx(plain_rank(z), rel=1e-9)
    eigen = np.linalg.eigvalsh(z @ z.T / (z**2).sum())
    shares = eigen[eigen > 1e-12]
    assert matrix_entropy(features) == pytest.approx(np.log((shares**1.01).sum()) / (1 - 1.01), abs=1e-9)
    assert matrix_entropy(features, 1) == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-9)
    rate = np.linalg.slogdet(np.eye(dim) + dim / count / 0.3**2 * z.T @ z)[1] / 2
    assert coding_rate(features, 0.3) == pytest.approx(rate, rel=1e-9)
    found = spectrum(features)
    values = np.linalg.svd(z - z.mean(0), compute_uv=False)
    assert not found.variance.requires_grad and found.variance.dtype == torch.float64
    if count > 1:
        np.testing.assert_allclose(found.singular_values, values / values.sum(), atol=1e-9)
        np.testing.assert_allclose(found.variance, np.cumsum(values**2) / (values**2).sum(), atol=1e-9)
    if count > 1 < dim:
        correlation = np.corrcoef(z.T)
        apart = np.abs(correlation[~np.eye(dim, dtype=bool)]).mean()
        assert found.correlation == pytest.approx(apart, abs=1e-9)


@pytest.mark.parametrize(("first", "last"), [(1, 6), (2, 5), (3, 4)])
def test_alpha_is_the_slope_of_the_line(first, last):
    features = rows(40, 6) * torch.arange(1, 7) + 5
    found = alpha_req(features, first, last)
    assert found == pytest.approx(plain_alpha(features.double().numpy(), first, last), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spectra_that_are_known(dtype):
    even = torch.cat([torch.eye(8), -torch.eye(8)]).to(dtype)
    assert rank_me(even) == pytest.approx(8, abs=1e-4)
    assert alpha_req(even) == (pytest.approx(0, abs=1e-12), 1)
    assert spectrum(even).variance.tolist() == pytest.approx([k / 8 for k in range(1, 9)])
    assert matrix_entropy(even) == pytest.approx(math.log(8)) and coding_rate(even) == pytest.approx(4 * math.log(5))
    power = with_values(torch.arange(1, 33).double() ** -0.65, 200).to(dtype)
    assert alpha_req(power) == pytest.approx((1.3, 1), abs=1e-4)
    line = rows(50, 1).double() @ rows(1, 9).double()  # one direction
    assert rank_me(line.to(dtype)) == pytest.approx(1, abs=1e-4) and matrix_entropy(line) == pytest.approx(0, abs=1e-9)
    assert spectrum(line).correlation == pytest.approx(1)


@pytest.mark.parametrize("fall", [4, 8])
def test_squares_cost_the_rank_no_more_than_is_said(fall):
    """The rows' own decomposition is the truth, on one wide direction and many that are 10^-fall of it."""
    values = torch.full((64,), 10.0**-fall).double()
    values[0] = 1
    features = with_values(values, 500).float()
    squares, exact = rank_me(features), plain_rank(features.double().numpy())
    assert squares == pytest.approx(exact, rel=1e-9 if fall == 4 else 64 * 2e-6)
    assert rank_me(features.double()) == pytest.approx(exact, rel=1e-12)


def test_the_line_ends_where_rounding_begins():
    """Of 32 features three vary; the rest is what rounding made of nothing."""
    features = rows(200, 3).double() * torch.tensor([4, 2, 1]) @ rows(3, 32, seed=1).double() + 100
    exact = plain_alpha(features.numpy(), 1, 3)
    for dtype in (torch.float32, torch.float64):
        assert alpha_req(features.to(dtype)) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_rows_that_are_alike_have_one_direction_or_none_and_no_variance(value, dtype):
    features = torch.full((37, 5), value, dtype=dtype)
    assert rank_me(features) == pytest.approx(1 if value else 0, abs=1e-4)
    assert math.isnan(alpha_req(features).alpha) and math.isnan(matrix_entropy(features)) == (not value)
    found = spectrum(features)
    assert not found.singular_values.any() and not found.variance.any() and math.isnan(found.correlation)
    assert coding_rate(features * 0) == 0


@pytest.mark.parametrize("shape", [(9, 4), (4, 9)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_nan(shape, value):
    for dtype in (torch.float32, torch.float64):
        features = rows(*shape).to(dtype)
        features[2, 1] = value
        found = spectrum(features)
        numbers = [rank_me(features), *alpha_req(features), matrix_entropy(features), coding_rate(features)]
        assert all(map(math.isnan, [*numbers, found.correlation]))
        assert found.singular_values.isnan().all() and found.variance.isnan().all()


def test_blocks_and_strides_change_nothing(monkeypatch):
    features = rows(60, 9)
    whole = [rank_me(features), alpha_req(features), spectrum(features).correlation]
    wide = spectrum(features.T).correlation
    assert rank_me(rows(60, 18)[:, ::2].copy_(features)) == pytest.approx(whole[0], rel=1e-12)
    for module in ("moments", "spectrum"):
        monkeypatch.setattr(sys.modules[f"sslkernels.evaluation.{module}"], "BLOCK", 70)
    assert rank_me(features) == pytest.approx(whole[0], rel=1e-12)
    assert alpha_req(features) == pytest.approx(whole[1], rel=1e-12)
    assert spectrum(features).correlation == pytest.approx(whole[2], rel=1e-12)
    assert spectrum(features.T).correlation == pytest.approx(wide, rel=1e-12)


def test_the_rank_is_that_of_the_spread_but_for_the_epsilon():
    features = rows(300, 16)
    assert rank_me(features) == pytest.approx(feature_spread(features).effective_rank, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: rank_me(torch.ones(0, 3)), r"rank_me: z has shape \(0, 3\); pass at least one row."),
        (lambda: rank_me(torch.ones(2, 3, 4)), r"rank_me: z has shape \(2, 3, 4\); expected \(N, D\)"),
        (lambda: alpha_req(rows(9, 4), 0), "alpha_req: first is 0; pass a whole number from 1 to 4"),
        (lambda: alpha_req(rows(9, 4), 2, 5), "alpha_req: last is 5; pass a whole number from 2 to 4"),
        (lambda: matrix_entropy(rows(9, 4), 0), "matrix_entropy: alpha is 0; pass a finite number above 0"),
        (lambda: coding_rate(rows(9, 4), -1), "coding_rate: eps is -1; pass a finite number above 0"),
    ],
)
def test_errors_say_what_to_pass(call, said):
    with pytest.raises(ValueError, match=said):
        call()
