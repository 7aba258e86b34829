# SPDX-License-Identifier: Apache-2.0
"""Check the bias of columns, and the pairs that diagonals and labels leave out, against dense float64 formulas."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.ops.similarity.schema import SIMILARITY

BACKENDS = ("reference", "cpu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
# Each rule leaves pairs out. Its arguments are drawn for n rows and m columns.
RULES = ("none", "diagonal", "stride", "table", "equal", "unequal", "one class")


def arguments(rule: str, n: int, m: int, itself: bool) -> dict[str, Any]:
    labels = torch.arange(n) % 3, torch.arange(m) % 4
    sides = {"row_labels": labels[0]} if itself else {"row_labels": labels[0], "col_labels": labels[1]}
    if rule == "diagonal":
        return {"exclude": (2, m)}
    if rule == "stride":
        return {"exclude": (5, 7)}
    if rule == "table":
        return {"exclude": torch.stack((torch.arange(n) % m, torch.arange(n).mul(5) % m), 1)}
    if rule == "one class":  # nothing is left in any row
        return {name: torch.zeros_like(of) for name, of in sides.items()}
    return {} if rule == "none" else {**sides, "keep": "unequal" if rule == "equal" else "equal"}


@cache
def kept(rule: str, n: int, m: int, itself: bool) -> Tensor:
    """Say of each pair whether it counts, one pair after another."""
    given = arguments(rule, n, m, itself)
    exclude, rows = given.get("exclude"), given.get("row_labels")
    columns, equal = given.get("col_labels", rows), given.get("keep") == "equal"
    table = torch.ones(n, m, dtype=torch.bool)
    for i in range(n):
        for j in range(m):
            if isinstance(exclude, tuple):
                table[i, j] = (j - exclude[0] - i) % exclude[1] != 0
            elif exclude is not None:
                table[i, j] = j not in exclude[i].tolist()
            elif rows is not None and columns is not None:
                table[i, j] = (rows[i] == columns[j]) == equal
    return table


def dense(x: Tensor, y: Tensor | None, scale: Tensor, bias: Tensor | None, table: Tensor) -> tuple[Tensor, Tensor]:
    logits = scale * x @ (x if y is None else y).T
    logits = (logits if bias is None else logits + bias).masked_fill(~table, -torch.inf)
    return _sums(logits, table, 1), _sums(logits, table, 0)


def _sums(logits: Tensor, table: Tensor, dim: int) -> Tensor:
    """Log-sum-exps, whose gradient is zero where nothing is left."""
    some = (table & (logits > -torch.inf)).any(dim)
    safe = torch.where(some.unsqueeze(dim), logits, 0.0)
    return torch.where(some, safe.logsumexp(dim), -torch.inf)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("biased", (False, True))
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_gradients(dtype: torch.dtype, rule: str, biased: bool, backend: str) -> None:
    for n, m, itself, dim in (
        (5, 9, False, "rows"),
        (67, 67, True, "rows"),
        (67, 67, True, "both"),
        (66, 203, False, "both"),
    ):
        compare(dtype, rule, biased, backend, n, m, 11, itself, dim)


def compare(
    dtype: torch.dtype, rule: str, biased: bool, backend: str, n: int, m: int, d: int, itself: bool, dim: str
) -> None:
    torch.manual_seed(n * m)
    x = torch.randn(n, d).to(dtype).requires_grad_()
    y = None if itself else torch.randn(m, d).to(dtype).requires_grad_()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scale = torch.tensor(0.6, dtype=wide, requires_grad=True)
    bias = torch.randn(m, dtype=wide)
    bias[1:2] = -torch.inf
    bias.requires_grad_()
    leaves = [leaf for leaf in (x, y, scale, bias if biased else None) if leaf is not None]
    given = arguments(rule, n, m, itself)
    found = SF.logsumexp_similarity(
        x,
        y,
        scale,
        bias=bias if biased else None,
        dim=dim,
        backend=backend,
        **given,  # type: ignore[call-overload]
    )
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    names = iter(exact)
    ours = (next(names), None if itself else next(names), next(names), next(names) if biased else None)
    want = dense(*ours, kept(rule, n, m, itself))
    pairs = list(zip(found, want, strict=True)) if dim == "both" else [(found, want[0])]
    grads = [torch.rand(len(of)).double() for _, of in pairs]
    for got, of in pairs:
        assert got.dtype == wide
        torch.testing.assert_close(got.detach().double(), of.detach(), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    value = sum(
        (got * grad.to(got.dtype)).masked_fill(of == -torch.inf, 0).sum()
        for (got, of), grad in zip(pairs, grads, strict=True)
    )
    truth = sum((of * grad).masked_fill(of == -torch.inf, 0).sum() for (_, of), grad in zip(pairs, grads, strict=True))
    assert isinstance(value, Tensor) and isinstance(truth, Tensor)
    got_all = torch.autograd.grad(value, leaves)
    want_all = torch.autograd.grad(truth, exact, allow_unused=True, materialize_grads=True)
    for leaf, got, of in zip(leaves, got_all, want_all, strict=True):
        assert got.dtype == leaf.dtype
        size = 1 + of.abs().max()
        torch.testing.assert_close(got.double(), of, rtol=TOLERANCE[dtype], atol=float(TOLERANCE[dtype] * size))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_sizes_around_blocks(dtype: torch.dtype, rule: str, backend: str) -> None:
    for n, m, d in ((191, 193, 48), (400, 385, 130), (1, 500, 3), (500, 1, 3)):
        compare(dtype, rule, True, backend, n, m, d, False, "rows")
        compare(dtype, rule, True, backend, n, m, d, False, "both")


def test_a_diagonal_is_a_table() -> None:
    x, y = torch.randn(50, 8), torch.randn(150, 8)
    table = torch.stack([(torch.arange(50) + 3) % 50 + 50 * k for k in range(3)], 1)
    got, want = (SF.logsumexp_similarity(x, y, 2.0, exclude=exclude) for exclude in ((3, 50), table))
    assert torch.equal(got, want)


def test_a_bias_is_the_logarithm_of_a_weight() -> None:
    x, y, weights = torch.randn(9, 5), torch.randn(6, 5), torch.tensor([1, 2, 0, 3, 1, 1])
    want = SF.logsumexp_similarity(x, y.repeat_interleave(weights, 0))
    torch.testing.assert_close(SF.logsumexp_similarity(x, y, bias=weights.log()), want)


def test_frozen_keys_may_be_overwritten() -> None:
    """A queue is not kept for the backward; with a bias that asks for a gradient it is."""
    x, queue, bias = torch.randn(9, 5, requires_grad=True), torch.randn(6, 5), torch.randn(6)
    lse = SF.logsumexp_similarity(x, queue, bias=bias)
    want = torch.softmax(x.detach() @ queue.T + bias, 1) @ queue
    queue.zero_()
    (got,) = torch.autograd.grad(lse.sum(), x)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("given", "said"),
    (
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\) and there are 4 columns; pass one number for each, \(4,\)"),
        ({"bias": torch.ones(4, dtype=torch.int64)}, "bias has dtype torch.int64"),
        ({"exclude": (1, 0)}, r"exclude\[1\] is 0; pass a whole number of at least 1"),
        ({"exclude": (-1, 2)}, r"exclude\[0\] is -1"),
        ({"exclude": [1, 2]}, "exclude is a list"),
        ({"row_labels": torch.arange(5)}, "col_labels is missing"),
        ({"col_labels": torch.arange(4)}, "row_labels is missing"),
        (
            {"row_labels": torch.arange(5), "col_labels": torch.arange(5)},
            r"col_labels has shape \(5,\); expected \(4,\)",
        ),
        (
            {"row_labels": [0, 1], "col_labels": torch.arange(4)},
            r"row_labels is a list; pass a torch.Tensor of shape \(5,\), int64 labels, one for each row",
        ),
        ({"row_labels": torch.ones(5), "col_labels": torch.arange(4)}, "row_labels has dtype torch.float32"),
        ({"keep": "all"}, "keep is 'all'"),
        ({"keep": "equal"}, "keep is 'equal' and there are no labels; pass row_labels"),
    ),
)
def test_errors_are_sentences(given: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"logsumexp_similarity: {said}"):
        SF.logsumexp_similarity(torch.randn(5, 3), torch.randn(4, 3), **given)


def test_labels_of_columns_without_columns() -> None:
    with pytest.raises(ValueError, match="col_labels came without y"):
        SF.logsumexp_similarity(torch.randn(5, 3), row_labels=torch.arange(5), col_labels=torch.arange(5))


def test_backends_are_those_of_the_family() -> None:
    assert {*BACKENDS, "triton"} == set(SIMILARITY.backends)
