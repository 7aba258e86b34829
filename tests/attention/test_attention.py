# SPDX-License-Identifier: Apache-2.0
"""Compare attend_similarity and all its gradients with the float64 oracle: shapes, dtypes, exclusions, frozen sides."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import attention_oracle as oracle
import pytest
import rows_oracle
import torch
from torch import Tensor

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
NAMES = ("query", "keys", "values", "scale", "bias")


class Problem(NamedTuple):
    """The inputs, in this order those of the oracle, and the gradient of the output."""

    query: Tensor
    keys: Tensor
    values: Tensor
    scale: Tensor
    bias: Tensor | None
    exclude: Tensor | None
    grad: Tensor


def problem(
    n: int, m: int, d: int, dv: int, dtype: torch.dtype = torch.float32, bias: bool = True, excluded: int = 0
) -> Problem:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return Problem(
        torch.randn(n, d).div(d**0.25).to(dtype),
        torch.randn(m, d).div(d**0.25).to(dtype),
        torch.randn(m, dv).to(dtype),
        torch.tensor(0.7, dtype=wide),
        torch.randn(m, dtype=wide) if bias else None,
        torch.randint(-1, m, (n, excluded)) if excluded else None,
        torch.randn(n, dv, dtype=wide),
    )


def run(given: Problem, backend: str | None, needs: tuple[str, ...] = NAMES) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output and the gradients of those inputs that ``needs`` names."""
    leaves = {name: getattr(given, name) for name in NAMES}
    leaves = {name: x if x is None else x.detach().clone().requires_grad_(name in needs) for name, x in leaves.items()}
    out = SF.attend_similarity(**leaves, exclude=given.exclude, backend=backend)
    wanted = [name for name in needs if leaves[name] is not None]
    found = torch.autograd.grad(out, [leaves[name] for name in wanted], given.grad) if wanted else ()
    return out.detach(), dict(zip(wanted, found, strict=True))


def check(given: Problem, backend: str, needs: tuple[str, ...] = NAMES, close: float | None = None) -> None:
    close = CLOSE[given.query.dtype] if close is None else close
    out, found = run(given, backend, needs)
    assert out.dtype == given.grad.dtype
    exact = oracle.attend_similarity(*given[:6])
    torch.testing.assert_close(out.double(), exact, rtol=close, atol=close)
    slopes = rows_oracle.gradients(
        lambda *inputs: (oracle.attend_similarity(*inputs, given.exclude) * given.grad).sum(), given[:5]
    )
    for name, slope in zip(NAMES, slopes, strict=True):
        if name not in found:
            continue
        assert found[name].dtype == getattr(given, name).dtype
        slope = torch.zeros_like(found[name]).double() if slope is None else slope  # every row left all keys out
        # A slope sums terms that cancel: of the size of `grad`, since weights are at most 1, by what they are times.
        times = {"query": abs(float(given.scale)), "keys": abs(float(given.scale)), "scale": len(given.query)}
        size = 1 + float(slope.abs().max()) + float(given.grad.abs().max()) * max(1, times.get(name, 1))
        torch.testing.assert_close(found[name].double(), slope, rtol=0, atol=2 * close * size, msg=name)


SHAPES = ((1, 1, 1, 1), (2, 3, 1, 5), (3, 2, 17, 1), (17, 31, 33, 16), (33, 70, 3, 49), (31, 17, 70, 3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_every_dtype_and_odd_shape(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check(problem(*shape, dtype, bias=False), backend)
    check(problem(*shape, dtype, excluded=2), backend)


@pytest.mark.slow
@pytest.mark.parametrize("n, m", list(itertools.product((1, 2, 47, 49, 193, 260), repeat=2)))
def test_sweep(backend: str, n: int, m: int) -> None:
    for d, dv in ((1, 1), (15, 33), (49, 16)):
        check(problem(n, m, d, dv, excluded=1), backend, close=3e-5)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(
    "needs",
    [
        tuple(name for name, need in zip(NAMES, mask, strict=True) if need)
        for mask in itertools.product((0, 1), repeat=5)
    ],
    ids="+".join,
)
def test_any_inputs_may_be_frozen(backend: str, needs: tuple[str, ...], dtype: torch.dtype) -> None:
    check(problem(50, 101, 5, 18, dtype, excluded=1), backend, needs)


def test_large_enough_for_every_schedule(backend: str, set_threads) -> None:
    """One or two threads get several blocks each, in a Latin square or a one-sided sweep of queries or keys."""
    given = problem(430, 500, 24, 40, excluded=3)
    whole = run(given, "reference")
    for threads in (1, 2):
        set_threads(threads)
        for needs in (NAMES, ("query",), ("keys", "bias"), ("values",)):
            out, found = run(given, backend, needs)
            torch.testing.assert_close(out, whole[0], rtol=1e-5, atol=1e-5)
            for name, slope in found.items():
                torch.testing.assert_close(slope, whole[1][name], rtol=2e-4, atol=5e-5)


def test_a_row_with_nothing_left_is_zero_with_zero_gradients(backend: str) -> None:
    given = problem(4, 2, 5, 3)._replace(exclude=torch.tensor([[0, 1], [0, -1], [1, 1], [-1, -1]]))
    check(given, backend)
    out, found = run(given, backend)
    assert (out[0] == 0).all() and (found["query"][0] == 0).all()
    silent = given._replace(exclude=torch.tensor([[0, 1]]).expand(4, 2))
    out, found = run(silent, backend)
    assert (out == 0).all() and all((slope == 0).all() for slope in found.values())


@pytest.mark.parametrize("n, m", [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_no_keys(backend: str, n: int, m: int) -> None:
    given = problem(n, m, 4, 5)
    out, found = run(given, backend)
    assert out.shape == (n, 5) and (out == 0).all()
    for name, slope in found.items():
        assert slope.shape == getattr(given, name).shape and (slope == 0).all()


def test_weights_of_keys_and_ones(backend: str) -> None:
    """A bias of log w counts key j w times, one of -inf leaves it out, and the weights of a row sum to 1."""
    given = problem(9, 6, 4, 3, bias=False)
    twice = [0, 1, 1, 2, 3, 3, 3]
    counted = torch.tensor([1.0, 2.0, 1.0, 3.0, 0.0, 0.0]).log()
    repeated = SF.attend_similarity(given.query, given.keys[twice], given.values[twice], 0.7, backend=backend)
    weighted = SF.attend_similarity(given.query, given.keys, given.values, 0.7, bias=counted, backend=backend)
    torch.testing.assert_close(weighted, repeated)
    ones = SF.attend_similarity(given.query, given.keys, torch.ones(6, 1), 0.7, backend=backend)
    torch.testing.assert_close(ones, torch.ones(9, 1))


def test_soft_targets(backend: str) -> None:
    """lse(z_s W / t) - z_s . attend(z_t, W_t, W_s) / t is the cross-entropy of soft targets, with all its gradients."""
    n, k, d = 21, 34, 6
    leaves = [torch.randn(rows, d, requires_grad=True) for rows in (n, k, n, k)]
    bias = torch.randn(k, requires_grad=True)

    def ours(target_query: Tensor, target_keys: Tensor, query: Tensor, keys: Tensor, bias: Tensor) -> Tensor:
        lse = SF.logsumexp_similarity(query, keys, 1 / 0.3, backend=backend)
        target = SF.attend_similarity(target_query, target_keys, keys, 1 / 0.5, bias=bias, backend=backend)
        return (lse - (query * target).sum(1) / 0.3).sum()

    def exact(*inputs: Tensor) -> Tensor:
        return oracle.soft_cross_entropy(*inputs[:4], 0.5, 0.3, inputs[4]).sum()

    found, wanted = ours(*leaves, bias), exact(*leaves, bias)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-4)
    slopes = torch.autograd.grad(found, [*leaves, bias])
    for slope, right in zip(slopes, rows_oracle.gradients(exact, [*leaves, bias]), strict=True):
        torch.testing.assert_close(slope.double(), right, rtol=1e-4, atol=1e-4)


def test_sharp_targets_pick_one_key(backend: str) -> None:
    query, keys, values = torch.randn(40, 8), torch.randn(60, 8), torch.randn(60, 7)
    best = (query.double() @ keys.double().T).argmax(1)
    torch.testing.assert_close(SF.attend_similarity(query, keys, values, 1e5, backend=backend), values[best])
