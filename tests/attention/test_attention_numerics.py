# SPDX-License-Identifier: Apache-2.0
"""Test numbers at the edges: low precision, scales, infinities, layouts; and what autograd and torch.compile ask."""

from __future__ import annotations

import attention_oracle as oracle
import pytest
import rows_oracle
import test_attention as plain
import torch
from torch import Tensor

import sslkernels.functional as SF

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


def eager(query: Tensor, keys: Tensor, values: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return torch.softmax(query @ keys.T * scale.to(query.dtype) + bias.to(query.dtype), 1) @ values


@pytest.mark.parametrize("size", (1.0, 1e-3), ids=("gradients of 1", "gradients of 1e-3"))
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("temperature", (1.0, 0.1))
def test_no_worse_than_eager_in_its_dtype(backend: str, dtype: torch.dtype, temperature: float, size: float) -> None:
    given = plain.problem(96, 160, 32, 24, dtype)._replace(scale=torch.tensor(1 / temperature))
    given = given._replace(grad=size * given.grad)
    out, found = plain.run(given, backend)
    leaves = [x.detach().clone().requires_grad_() for x in given[:5]]
    theirs = eager(*leaves)
    slopes = torch.autograd.grad(theirs, leaves, given.grad.to(dtype))
    exact = oracle.attend_similarity(*given[:5])
    right = rows_oracle.gradients(lambda *x: (oracle.attend_similarity(*x) * given.grad).sum(), given[:5])
    for name, ours, other, true in zip(
        ("out", *plain.NAMES), (out, *found.values()), (theirs, *slopes), (exact, *right), strict=True
    ):
        error, allowed = ((x.double() - true).norm() / true.norm() for x in (ours, other))
        # The scale's gradient is one number, whose error may vanish by luck.
        assert error <= 1.1 * allowed or (name == "scale" and error < 8 * torch.finfo(dtype).eps), name


@pytest.mark.parametrize("scale", (1e-3, 1e3, -1e3, -1.0, 0.0))
def test_any_real_scale(backend: str, scale: float) -> None:
    given = plain.problem(40, 33, 9, 5)._replace(scale=torch.tensor(scale))
    plain.check(given, backend, close=2e-5 + 2e-6 * abs(scale))


def test_infinities_and_nan_come_out_as_in_the_formula(backend: str) -> None:
    given = plain.problem(5, 7, 4, 3)
    clean, _ = plain.run(given, backend)
    for place in ("query", "keys", "values", "bias"):
        for odd in (torch.inf, -torch.inf, torch.nan):
            x = getattr(given, place).clone()
            x.view(-1)[0] = odd
            inputs = given._replace(**{place: x})
            wanted = torch.softmax(inputs.query @ inputs.keys.T * inputs.scale + inputs.bias, 1) @ inputs.values
            out, _ = plain.run(inputs, backend)
            torch.testing.assert_close(out, wanted, equal_nan=True, msg=f"{place} {odd}")
    # A NaN row is NaN alone.
    query = given.query.clone()
    query[2, 1] = torch.nan
    out, found = plain.run(given._replace(query=query), backend)
    assert out[2].isnan().all() and torch.equal(out[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])
    assert found["query"][[0, 1, 3, 4]].isfinite().all() and found["keys"].isnan().all()


def test_any_row_stride_and_no_input_is_written(backend: str) -> None:
    given = plain.problem(20, 30, 6, 5, excluded=1)
    want, slopes = plain.run(given, backend)
    wide = [torch.full((2 * len(x), 9), torch.nan)[::2, : x.shape[1]].copy_(x) for x in given[:3]]
    strided = given._replace(query=wide[0], keys=wide[1], values=wide[2])
    leaves = [x.requires_grad_() for x in strided[:3]]
    bias = torch.stack([given.bias, given.bias], 1)[:, 0]
    before = [x.detach().clone() for x in leaves]
    out = SF.attend_similarity(*leaves, 0.7, bias=bias, exclude=given.exclude, backend=backend)
    found = torch.autograd.grad(out, leaves, given.grad.T.contiguous().T)
    torch.testing.assert_close(out, want, rtol=1e-6, atol=1e-6)
    for slope, name, kept, x in zip(found, plain.NAMES, before, leaves, strict=False):
        torch.testing.assert_close(slope, slopes[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(kept, x)
    expanded = SF.attend_similarity(given.query[:1].expand(20, 6), given.keys, given.values, backend=backend)
    assert torch.equal(expanded[0], expanded[19])
    assert strided.keys.stride(0) == 18


def test_same_inputs_give_the_same_bits(backend: str, set_threads) -> None:
    given = plain.problem(260, 300, 33, 17)
    for threads in (1, 2):
        set_threads(threads)
        first, again = plain.run(given, backend), plain.run(given, backend)
        assert torch.equal(first[0], again[0])
        assert all(torch.equal(first[1][name], again[1][name]) for name in plain.NAMES)


def test_what_autograd_asks(backend: str) -> None:
    given = plain.problem(6, 7, 4, 3)
    leaves = [x.clone().requires_grad_() for x in given[:5]]
    out = SF.attend_similarity(*leaves[:4], bias=leaves[4], backend=backend)
    once = torch.autograd.grad(out.sum(), leaves, retain_graph=True)
    twice = torch.autograd.grad(out.sum(), leaves, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        twice[0].sum().backward()
    assert not SF.attend_similarity(*given[:3], backend=backend).requires_grad


def test_dtypes_of_bias_and_scale(backend: str) -> None:
    given = plain.problem(6, 7, 4, 3, torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        bias, scale = (
            given.bias.detach().clone().to(dtype).requires_grad_(),
            torch.ones(1, dtype=dtype, requires_grad=True),
        )
        out = SF.attend_similarity(*given[:3], scale, bias=bias, backend=backend)
        assert out.dtype == torch.float32
        out.sum().backward()
        assert bias.grad.dtype == dtype and scale.grad.dtype == dtype and scale.grad.shape == (1,)


def test_autocast(backend: str) -> None:
    given = plain.problem(12, 20, 8, 5)
    leaves = [x.clone().requires_grad_() for x in given[:3]]
    with torch.autocast("cpu", torch.bfloat16):
        out = SF.attend_similarity(leaves[0], leaves[1].bfloat16(), leaves[2], backend=backend)
    rounded = [x.bfloat16() for x in given[:3]]
    assert torch.equal(out, SF.attend_similarity(*rounded, backend=backend)) and out.dtype == torch.float32
    out.sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves)


def test_compiles_whole_with_any_batch(backend: str) -> None:
    def loss(query: Tensor, keys: Tensor, values: Tensor, scale: Tensor, bias: Tensor, exclude: Tensor) -> Tensor:
        return SF.attend_similarity(query, keys, values, scale, bias=bias, exclude=exclude, backend=backend).sin().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 8):
        given = plain.problem(n, 9, 4, 3, excluded=2)
        leaves = [x.clone().requires_grad_() for x in given[:5]]
        want = torch.autograd.grad(loss(*leaves, given.exclude), leaves)
        for a, b in zip(torch.autograd.grad(compiled(*leaves, given.exclude), leaves), want, strict=True):
            torch.testing.assert_close(a, b)


def test_wrong_arguments_are_named() -> None:
    query, keys, values = torch.randn(4, 3), torch.randn(5, 3), torch.randn(5, 2)
    for arguments, error, words in (
        ({"keys": torch.randn(5, 2)}, ValueError, "query has shape"),
        ({"values": torch.randn(4, 2)}, ValueError, r"values has shape \(4, 2\) and keys \(5, 3\)"),
        ({"values": values.double()}, TypeError, "values torch.float64"),
        ({"bias": torch.randn(4)}, ValueError, r"bias has shape \(4,\)"),
        ({"bias": torch.arange(5)}, TypeError, "bias has dtype torch.int64"),
        ({"bias": 1.0}, TypeError, "bias is a float"),
        ({"exclude": torch.full((4,), 5)}, IndexError, "attend_similarity: exclude holds 5"),
        ({"exclude": torch.zeros(5, dtype=torch.int64)}, ValueError, "exclude has shape"),
        ({"scale": "1"}, TypeError, "scale"),
    ):
        with pytest.raises(error, match=words) as raised:
            SF.attend_similarity(**{"query": query, "keys": keys, "values": values, **arguments})
        assert str(raised.value).startswith("attend_similarity: ")
