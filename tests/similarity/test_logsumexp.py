# SPDX-License-Identifier: Apache-2.0
"""Compare logsumexp_similarity with the float64 oracle: shapes, exclusions, both directions, empty rows."""

from __future__ import annotations

import pytest
import rows_oracle
import similarity_oracle as oracle
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import _C

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

SIZES = (1, 2, 3, 17, 31, 33, 257)
EPSILON = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-23, torch.float16: 2.0**-23}
DTYPES = tuple(EPSILON)


def some_exclusions(kind: str, n: int, m: int) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "one":
        return torch.randint(-1, m, (n,))
    repeated = torch.randint(-1, m, (n, 3))
    return torch.cat([repeated, repeated[:, :1]], 1)


def assert_lse(actual: Tensor, expected: Tensor, x: Tensor, y: Tensor, scale: float) -> None:
    allowed = oracle.rounding(x, y, scale, EPSILON[x.dtype])
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_rows_and_columns_of_every_odd_shape(backend: str, n: int, d: int) -> None:
    for m in {1, 17, n, 34} if n < 257 else {33}:
        x, y = torch.randn(n, d), torch.randn(m, d)
        exclude = some_exclusions("several", n, m)
        rows, columns = SF.logsumexp_similarity(x, y, 0.7, exclude=exclude, dim="both", backend=backend)
        expected_rows, expected_columns = oracle.logsumexp_similarity(x, y, 0.7, exclude)
        assert_lse(rows, expected_rows, x, y, 0.7)
        assert_lse(columns, expected_columns, x, y, 0.7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["none", "one", "several"])
@pytest.mark.parametrize("itself", [False, True], ids=["pair", "itself"])
def test_every_dtype_and_exclusion(backend: str, dtype: torch.dtype, kind: str, itself: bool) -> None:
    x = torch.randn(65, 19).to(dtype)
    y = None if itself else torch.randn(41, 19).to(dtype)
    keys = x if y is None else y
    exclude = some_exclusions(kind, 65, keys.shape[0])
    rows = SF.logsumexp_similarity(x, y, -1.3, exclude=exclude, backend=backend)
    both = SF.logsumexp_similarity(x, y, -1.3, exclude=exclude, dim="both", backend=backend)
    expected = oracle.logsumexp_similarity(x, y, -1.3, exclude)
    assert rows.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_lse(rows, expected[0], x, keys, -1.3)
    assert_lse(both[0], expected[0], x, keys, -1.3)
    assert_lse(both[1], expected[1], x, keys, -1.3)


@pytest.mark.parametrize("n", [1, 2, 17, 193, 257, 400])
def test_x_with_itself_keeps_the_diagonal_unless_excluded(backend: str, n: int) -> None:
    x = torch.randn(n, 8)
    whole = SF.logsumexp_similarity(x, scale=0.5, backend=backend)
    others = SF.logsumexp_similarity(x, scale=0.5, exclude=torch.arange(n), backend=backend)
    assert_lse(whole, oracle.logsumexp_similarity(x, None, 0.5)[0], x, x, 0.5)
    assert_lse(others, oracle.logsumexp_similarity(x, None, 0.5, torch.arange(n))[0], x, x, 0.5)


def test_large_enough_for_every_schedule(backend: str, set_threads) -> None:
    """One or two threads get several blocks each, in a triangle, tournament, Latin square or one-sided sweep."""
    x, y = torch.randn(900, 24), torch.randn(700, 24)
    exclude = some_exclusions("several", 900, 700)
    own = torch.arange(900)
    pair = [torch.logsumexp(masked(x, y, exclude), axis) for axis in (1, 0)]
    itself = torch.logsumexp(masked(x, x, own[:, None]), 1)
    for threads in (1, 2):
        set_threads(threads)
        rows, columns = SF.logsumexp_similarity(x, y, exclude=exclude, dim="both", backend=backend)
        assert_lse(rows, pair[0], x, y, 1.0)
        assert_lse(columns, pair[1], x, y, 1.0)
        assert_lse(SF.logsumexp_similarity(x, exclude=own, backend=backend), itself, x, x, 1.0)


def masked(x: Tensor, y: Tensor, exclude: Tensor) -> Tensor:
    """Compute float64 similarities with excluded pairs at -inf, for sizes where the oracle's loops are slow."""
    similarity = x.double() @ y.double().T
    for column in exclude.T:
        named = column >= 0
        similarity[named.nonzero()[:, 0], column[named]] = -torch.inf
    return similarity


def test_a_row_with_nothing_left_is_minus_infinity_with_zero_gradient(backend: str) -> None:
    x, y = torch.randn(4, 5, requires_grad=True), torch.randn(2, 5, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    exclude = torch.tensor([[0, 1], [0, -1], [1, 1], [-1, -1]])
    rows = SF.logsumexp_similarity(x, y, scale, exclude=exclude, backend=backend)
    assert rows[0] == -torch.inf and rows[1:].isfinite().all()
    rows.backward(torch.ones(4))
    assert (x.grad[0] == 0).all()
    assert x.grad.isfinite().all() and y.grad.isfinite().all() and scale.grad.isfinite()
    expected = rows_oracle.gradients(
        lambda x, y, s: oracle.logsumexp_similarity(x, y, s, exclude)[0][1:].sum(), [x, y, scale]
    )
    for leaf, gradient in zip((x, y, scale), expected, strict=True):
        torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-5, atol=1e-6)


def test_a_column_with_nothing_left_is_minus_infinity_with_zero_gradient(backend: str) -> None:
    x, y = torch.randn(3, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    rows, columns = SF.logsumexp_similarity(x, y, exclude=torch.tensor([2, 2, 2]), dim="both", backend=backend)
    assert columns[2] == -torch.inf and columns[[0, 1, 3]].isfinite().all() and rows.isfinite().all()
    columns.backward(torch.ones(4))
    assert (y.grad[2] == 0).all() and x.grad.isfinite().all() and y.grad.isfinite().all()


def test_everything_left_out_of_x_with_itself(backend: str) -> None:
    x = torch.randn(1, 3, requires_grad=True)
    lse = SF.logsumexp_similarity(x, exclude=torch.tensor([0]), backend=backend)
    lse.sum().backward()
    assert lse.item() == -torch.inf and (x.grad == 0).all()


def test_no_columns_to_sum(backend: str) -> None:
    x, y = torch.randn(3, 4, requires_grad=True), torch.randn(0, 4, requires_grad=True)
    rows, columns = SF.logsumexp_similarity(x, y, dim="both", backend=backend)
    assert (rows == -torch.inf).all() and columns.shape == (0,)
    rows.sum().backward()
    assert (x.grad == 0).all() and y.grad.shape == (0, 4)


def test_no_columns_to_sum_for_frozen_keys(backend: str) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    rows = SF.logsumexp_similarity(x, torch.randn(0, 4), backend=backend)
    assert (rows == -torch.inf).all()
    rows.sum().backward()
    assert (x.grad == 0).all()


def test_no_rows(backend: str) -> None:
    x, y = torch.randn(0, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    rows, columns = SF.logsumexp_similarity(x, y, dim="both", backend=backend)
    assert rows.shape == (0,) and (columns == -torch.inf).all()
    columns.sum().backward()
    assert x.grad.shape == (0, 4) and (y.grad == 0).all()


def test_nothing_with_itself(backend: str) -> None:
    x = torch.randn(0, 4, requires_grad=True)
    rows = SF.logsumexp_similarity(x, backend=backend)
    rows.sum().backward()
    assert rows.shape == (0,) and x.grad.shape == (0, 4)


def test_exclude_with_no_columns_leaves_everything_in(backend: str) -> None:
    x = torch.randn(5, 4)
    empty = torch.empty(5, 0, dtype=torch.int64)
    whole = SF.logsumexp_similarity(x, backend=backend)
    assert torch.equal(SF.logsumexp_similarity(x, exclude=empty, backend=backend), whole)


@pytest.mark.parametrize("scale", [3, 0.0, -2.5, torch.tensor(1.5), torch.tensor([[1.5]]), torch.tensor(1.5).double()])
def test_scale_is_any_number_or_one_element_tensor(backend: str, scale: float | Tensor) -> None:
    x, y = torch.randn(6, 4), torch.randn(5, 4)
    rows = SF.logsumexp_similarity(x, y, scale, backend=backend)
    assert_lse(rows, oracle.logsumexp_similarity(x, y, scale)[0], x, y, float(scale))


@pytest.mark.slow
@pytest.mark.share(3)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("n", SIZES)
def test_full_sweep_of_shapes(backend: str, n: int, d: int, dtype: torch.dtype) -> None:
    for m in SIZES:
        x, y = torch.randn(n, d).to(dtype), torch.randn(m, d).to(dtype)
        for kind in ("none", "one", "several"):
            exclude = some_exclusions(kind, n, m)
            rows, columns = SF.logsumexp_similarity(x, y, 0.7, exclude=exclude, dim="both", backend=backend)
            expected_rows, expected_columns = oracle.logsumexp_similarity(x, y, 0.7, exclude)
            assert_lse(rows, expected_rows, x, y, 0.7)
            assert_lse(columns, expected_columns, x, y, 0.7)


def test_poison_reaches_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its kernel an op gives NaN, so the numbers that these tests see were written by the kernel."""
    monkeypatch.setattr(_C, "similarity_forward", lambda *arguments: None)
    assert SF.logsumexp_similarity(torch.randn(3, 2), backend="cpu").isnan().all()
