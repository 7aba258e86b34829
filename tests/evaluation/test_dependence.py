# SPDX-License-Identifier: Apache-2.0
"""Correlations of two parts, also given a label, are those of plain NumPy and of parts that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sslkernels.evaluation import cca, conditional_independence, dependence


def rows(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def plain_root(covariance: np.ndarray, ridge: float) -> np.ndarray:
    shifted = covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(shifted)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def plain(x1: np.ndarray, x2: np.ndarray, y: np.ndarray | None, ridge: float) -> np.ndarray:
    """Partial out y by least squares, with an intercept, of rows."""
    c1, c2 = x1 - x1.mean(0), x2 - x2.mean(0)
    left = c1
    if y is not None:
        given = np.c_[y, np.ones(len(y))]
        left = c1 - given @ np.linalg.lstsq(given, c1, rcond=None)[0]
    cross = left.T @ c2 / len(x1)
    r1, r2 = (plain_root(c.T @ c / len(c), ridge) for c in (c1, c2))
    return np.linalg.svd(r1 @ cross @ r2, compute_uv=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_both_are_their_formulas(dtype):
    x1, x2 = (rows(200, 5) + 3).to(dtype).requires_grad_(), (rows(200, 5)[:, :3] + rows(200, 3, 1)).to(dtype)
    n1, n2 = x1.detach().double().numpy(), x2.double().numpy()
    found = cca(x1, x2, 1e-3)
    np.testing.assert_allclose(found.correlations, plain(n1, n2, None, 1e-3), atol=1e-9)
    assert found.mean == pytest.approx(float(found.correlations.mean()), abs=1e-12)
    y = torch.arange(200) % 7 * 10 - 20
    for given, columns in ((y, np.eye(7)[y.numpy() // 10 + 2]), (rows(200, 2, 2), rows(200, 2, 2).numpy())):
        found = conditional_independence(x1, x2, given)
        assert found.given_y == pytest.approx(np.linalg.norm(plain(n1, n2, columns, 1e-4)), abs=1e-9)
        assert found.without_y == pytest.approx(np.linalg.norm(plain(n1, n2, None, 1e-4)), abs=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1e-4])
def test_a_linear_map_correlates_fully_and_noise_hardly(ridge):
    x = rows(500, 6)
    assert cca(x, x, ridge).correlations.tolist() == pytest.approx([1] * 6, abs=2 * ridge + 1e-12)
    mapped = cca(x, torch.cat([x @ rows(6, 2, 3), x[:, :1] * 0 + 7], 1), ridge)  # the last does not vary
    assert mapped.correlations.tolist() == pytest.approx([1, 1, 0], abs=1e-3)
    twice = cca(torch.cat([x, x], 1), x, ridge)
    assert twice.correlations.tolist() == pytest.approx([1] * 6, abs=1e-3)
    assert cca(x, rows(500, 6, 4), ridge).correlations.max() < 2 * 6**0.5 / 500**0.5


def test_parts_that_share_the_label_alone_are_independent_given_it():
    labels = torch.arange(2000) % 4
    centres = 3 * rows(4, 5, 9)
    x1, x2 = centres[labels] + rows(2000, 5, 1), centres[labels].flip(1) + rows(2000, 5, 2)
    found = conditional_independence(x1, x2, labels)
    assert found.given_y < 2 * 5 / 2000**0.5 < 1 < found.without_y
    assert conditional_independence(x1, x1, labels).given_y > 0.2
    assert conditional_independence(x1, x2, labels[:, None] * 0.0).given_y == pytest.approx(found.without_y)


def test_hostile_rows():
    x, y = rows(8, 3), torch.arange(8) % 2
    assert cca(x * 0, x).correlations.tolist() == [0, 0, 0]
    assert conditional_independence(x * 0 + 0.1, x, y * 0) == (0, 0)
    wide = cca(rows(4, 9), rows(4, 7, 1)).correlations
    assert wide.isfinite().all() and wide.max() == pytest.approx(1, abs=1e-2)
    x[1, 1] = math.nan
    assert math.isnan(cca(x, x).mean) and all(map(math.isnan, conditional_independence(x, rows(8, 2), y)))
    assert all(map(math.isnan, conditional_independence(rows(8, 3), rows(8, 2), x)))


def test_blocks_and_strides_change_nothing(monkeypatch):
    x1, x2, y = rows(100, 8), rows(100, 16, 1)[:, ::2], torch.arange(100) % 3
    x2 = x1 + x2
    before = cca(x1[:, ::2], x2), conditional_independence(x1, x2, y)
    monkeypatch.setattr(dependence, "BLOCK", 100)
    assert cca(x1[:, ::2], x2).mean == pytest.approx(before[0].mean, rel=1e-12)
    assert conditional_independence(x1, x2, y) == pytest.approx(before[1], rel=1e-12)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: cca(rows(8, 3), rows(7, 3)),
            r"cca: x1 has shape \(8, 3\) and x2 \(7, 3\); both need the same samples",
        ),
        (lambda: cca(rows(1, 3), rows(1, 3)), r"cca: x1 has shape \(1, 3\); pass at least 2 rows"),
        (lambda: cca(rows(8, 3), rows(8, 3), -1), "cca: ridge is -1; pass a finite number of at least 0"),
        (
            lambda: conditional_independence(rows(8, 3), rows(8, 3), torch.zeros(7, dtype=torch.int64)),
            r"conditional_independence: y has shape \(7,\) and x1 \(8, 3\); pass what is known of each sample",
        ),
        (
            lambda: conditional_independence(rows(8, 3), rows(8, 3), torch.zeros(8)),
            r"conditional_independence: y has shape \(8,\); expected \(N,\), int64, or \(N, D\)",
        ),
    ],
)
def test_errors_say_what_to_pass(call, said):
    with pytest.raises(ValueError, match=said):
        call()
