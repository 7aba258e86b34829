# SPDX-License-Identifier: Apache-2.0
"""Hold sums of softplus, SigLIP's loss and every gradient against float64, over shapes, dtypes and backends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import sigmoid_oracle
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.sigmoid import schema as sigmoid
from sslkernels.ops.sigmoid.schema import Needs, Pairs

BACKENDS = ("reference", "cpu")
# The largest error of sums, and of gradients over their largest number. A logit of 257 features is off by a few
# roundings of float32, and so is the exponential of it. Products of 16-bit rows are exact in float32; gradients are
# rounded once, and so are weights on processors that multiply 16-bit numbers.
SUMS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 2e-6, torch.float16: 2e-6}
SLOPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
SCALE, BIAS = 3.0, -4.0


def rows(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, d).div(d**0.5).to(dtype).requires_grad_()


def number(value: float, dtype: torch.dtype) -> Tensor:
    return torch.tensor(value, dtype=torch.float64 if dtype == torch.float64 else torch.float32, requires_grad=True)


def assert_near(found: Tensor, wanted: Tensor, close: float, size: float | None = None) -> None:
    size = float(wanted.abs().max()) if size is None and wanted.numel() else size or 0.0
    torch.testing.assert_close(found.detach().double(), wanted, rtol=0, atol=close * size)


def check(n: int, m: int | None, d: int, dtype: torch.dtype, backend: str) -> None:
    x, y = rows(n, d, dtype), None if m is None else rows(m, d, dtype)
    scale, bias = number(SCALE, dtype), number(BIAS, dtype)
    weights = torch.randn(n, dtype=scale.dtype)
    exact = sigmoid_oracle.exact(x, x if y is None else y, SCALE, BIAS, weights)
    sums = SF.softplus_similarity(x, y, scale, bias, backend=backend)
    assert sums.dtype == scale.dtype
    assert_near(sums, exact.sums, SUMS[dtype])
    leaves = [x, scale, bias, *([] if y is None else [y])]
    dx, dscale, dbias, *dy = torch.autograd.grad(sums, leaves, weights)
    assert dx.dtype == dtype
    assert_near(dx, exact.dx if dy else exact.dx + exact.dy, SLOPES[dtype])
    for found in dy:
        assert_near(found, exact.dy, SLOPES[dtype])
    # Terms of both signs cancel: none of them, and so no sum of theirs, is rounded to 16 bits.
    most = float(exact.sums.sum()) + 1
    assert_near(dscale, exact.dscale, SUMS[dtype], most)
    assert_near(dbias, exact.dbias, SUMS[dtype], most)


@pytest.mark.parametrize("dtype", SUMS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_sums(backend: str, dtype: torch.dtype) -> None:
    for n, m, d in ((1, 1, 1), (3, 2, 17), (31, 70, 33), (210, 230, 5)):
        check(n, m, d, dtype, backend)
        check(n, None, d, dtype, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_sweep(backend: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 70), st.one_of(st.none(), st.integers(0, 70)), st.integers(1, 70), st.sampled_from([*SUMS]))
    def swept(n: int, m: int | None, d: int, dtype: torch.dtype) -> None:
        check(n, m, d, dtype, backend)

    swept()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_give_sums_of_zero_and_no_gradient(backend: str) -> None:
    x, y = torch.ones(3, 2, requires_grad=True), torch.ones(0, 2, requires_grad=True)
    for left, right, size in ((x, y, 3), (y, x, 0), (y, None, 0)):
        sums = SF.softplus_similarity(left, right, backend=backend)
        assert torch.equal(sums, torch.zeros(size))
        for gradient in torch.autograd.grad(sums.sum(), [z for z in (left, right) if z is not None]):
            assert not gradient.any()
    with pytest.raises(ValueError, match="softplus_similarity: x has shape"):
        SF.softplus_similarity(torch.ones(3, 0), backend=backend)


@pytest.mark.parametrize("dtype", SUMS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_siglip_one_by_one(backend: str, dtype: torch.dtype) -> None:
    for n, d in ((1, 3), (50, 17), (230, 9)):
        image, text, scale, bias = rows(n, d, dtype), rows(n, d, dtype), number(SCALE, dtype), number(BIAS, dtype)
        weights = torch.rand(n, dtype=scale.dtype)
        exact = sigmoid_oracle.exact(image, text, SCALE, BIAS, weights, paired=True)
        losses = SF.siglip_loss(image, text, scale, bias, reduction="none", backend=backend)
        assert_near(losses, exact.sums, SUMS[dtype])
        assert_near(SF.siglip_loss(image, text, scale, bias, backend=backend), exact.sums.mean(), SUMS[dtype])
        dx, dy, dscale, dbias = torch.autograd.grad(losses, (image, text, scale, bias), weights)
        assert_near(dx, exact.dx, SLOPES[dtype])
        assert_near(dy, exact.dy, SLOPES[dtype])
        assert_near(dscale, exact.dscale, SUMS[dtype], float(exact.sums.sum()))
        assert_near(dbias, exact.dbias, SUMS[dtype], float(exact.sums.sum()))


@pytest.mark.parametrize("bias", [None, 0.0])
def test_no_bias_is_a_bias_of_zero(bias: float | None) -> None:
    image, text = rows(5, 3, torch.float32), rows(5, 3, torch.float32)
    exact = sigmoid_oracle.exact(image, text, 2.0, 0.0, torch.ones(5), paired=True)
    assert_near(SF.siglip_loss(image, text, torch.full((1, 1), 2.0), bias, reduction="sum"), exact.sums.sum(), 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_diagonals_own_term_keeps_its_digits(backend: str) -> None:
    """A pair that is well matched has a loss of e^-30, which softplus(30) - 30 would lose."""
    x = torch.eye(1)
    value = SF.siglip_loss(x, x, 40.0, -10.0, backend=backend)
    assert float(value) == pytest.approx(9.357622968840175e-14, rel=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_size_of_logit_is_exact(backend: str, dtype: torch.dtype) -> None:
    """One logit at a time, from where e^u vanishes to where it overflows, is off by what float32 does to u and e^u."""
    u = torch.cat([torch.linspace(-80, 80, 321), torch.tensor([-1e4, -200.0, 200.0, 1e4, 3e38])]).to(dtype)
    x, y = u[:, None].requires_grad_(), torch.ones(1, 1, dtype=dtype)
    sums = SF.softplus_similarity(x, y, backend=backend)
    (slopes,) = torch.autograd.grad(sums.sum(), x)
    wide = u.detach().double()
    close = 4 * torch.finfo(dtype).eps * (2 + wide.abs().clamp(max=90))
    for found, wanted in (
        (sums, wide.clamp_min(0) + torch.log1p(torch.exp(-wide.abs()))),
        (slopes[:, 0], wide.sigmoid()),
    ):
        assert ((found.detach().double() - wanted).abs() <= close * wanted.abs() + 1e-38).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_thousands_of_small_terms_do_not_drown(backend: str) -> None:
    """softplus(-10) = 4.5e-5 has three digits beside 1 in float32, and the sum of 30,000 of them must keep six."""
    x, y = torch.ones(2, 1), torch.full((30_000, 1), 1e-3)
    y[0] = 20.0  # one large term among them
    exact = sigmoid_oracle.exact(x, y, 1.0, -10.0, torch.ones(2))
    sums = SF.softplus_similarity(x, y, 1.0, -10.0, backend=backend)
    assert_near(sums, exact.sums, 4e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinities_and_nan_come_out_as_in_the_formula(backend: str) -> None:
    x, y = torch.randn(5, 3), torch.randn(4, 3)
    x[1, 0], x[2, 0], y[3, 1] = torch.inf, torch.nan, -torch.inf
    x[4], y[0] = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, -1.0, 2.0])
    found, wanted = (
        torch.autograd.grad(value, leaves)
        for leaves, value in (
            ((a, b), of(a, b)) for a, b, of in (
                (x.clone().requires_grad_(), y.clone().requires_grad_(),
                 lambda a, b: SF.softplus_similarity(a, b, backend=backend)[[0, 3, 4]].sum()),
                (x.double().requires_grad_(), y.double().requires_grad_(),
                 lambda a, b: (a @ b.T).exp().log1p()[[0, 3, 4]].sum()),
            )
        )
    )  # fmt: skip
    sums = SF.softplus_similarity(x, y, backend=backend)
    exact = (x.double() @ y.double().T).exp().log1p().sum(1)
    torch.testing.assert_close(sums.double(), exact, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert all(torch.equal(a.isnan(), b.isnan()) for a, b in zip(found[1:], wanted[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_no_worse_than_eager_in_16_bits(dtype: torch.dtype) -> None:
    image, text = (torch.nn.functional.normalize(rows(120, 64, torch.float32), dim=1).to(dtype).detach() for _ in "ab")
    exact = sigmoid_oracle.exact(image, text, 10.0, -10.0, torch.full((120,), 1 / 120), paired=True)
    leaves = image.requires_grad_(), text.requires_grad_()
    ours = SF.siglip_loss(*leaves, 10.0, -10.0)
    logits = 10.0 * image @ text.T - 10.0
    labels = 2 * torch.eye(120, dtype=dtype) - 1
    eager = -torch.nn.functional.logsigmoid(labels * logits).sum() / 120
    errors = []
    for value in (ours, eager):
        slopes = torch.autograd.grad(value, leaves)
        errors.append([abs(float(value.detach()) - float(exact.sums.mean())), *(
            float((found.double() - wanted).norm()) for found, wanted in zip(slopes, (exact.dx, exact.dy), strict=True)
        )])  # fmt: skip
    assert all(mine <= 1.5 * theirs for mine, theirs in zip(*errors, strict=True)), errors


def test_rows_of_any_stride_are_read_and_not_written() -> None:
    wide = torch.randn(40, 2, 9)
    x, y = wide[::2, 0, ::2], wide[1::2, 1, :5]
    before = wide.clone()
    found = SF.softplus_similarity(x, y, 2.0, -1.0)
    assert torch.equal(found, SF.softplus_similarity(x.contiguous(), y.contiguous(), 2.0, -1.0))
    assert torch.equal(wide, before)


def test_same_inputs_give_same_bits() -> None:
    torch.set_num_threads(2)
    x, y, scale, bias = torch.randn(300, 40), torch.randn(300, 40), torch.tensor(2.0), torch.tensor(-3.0)
    everything = Needs(True, True, True, True)
    for paired, other in ((True, y), (False, None)):
        pairs = Pairs(x, other, scale, bias, paired)
        results = [
            [sigmoid.forward(pairs, "cpu"), *sigmoid.backward(pairs, torch.ones(300), everything, "cpu")]
            for _ in range(3)
        ]
        for again in results[1:]:
            assert all(map(torch.equal, results[0], again))


def test_only_what_is_wanted_is_computed() -> None:
    """Every set of gradients has the same bits as all of them, and the others are empty."""
    x, y, weights = torch.randn(70, 9), torch.randn(90, 9), torch.randn(70)
    pairs = Pairs(x, y, torch.tensor(2.0), torch.tensor(-3.0), False)
    for every in (
        lambda needs: sigmoid.backward(pairs, weights, needs, "cpu"),
        lambda needs: sigmoid.loss(pairs, 0.1, needs, "cpu")[1:],
    ):
        whole = every(Needs(True, True, True, True))
        for needs in product((False, True), repeat=4):
            for need, found, wanted in zip(needs, every(Needs(*needs)), whole, strict=True):
                torch.testing.assert_close(found, wanted if need else found.new_empty(0), rtol=2e-6, atol=1e-5)


def test_compiled_with_any_number_of_rows() -> None:
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def step(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return SF.siglip_loss(x, y, scale, -3.0) + SF.softplus_similarity(x, y, scale).mean()

    for n in (5, 9):
        leaves = rows(n, 4, torch.float32), rows(n, 4, torch.float32), number(2.0, torch.float32)
        slopes = torch.autograd.grad(step(*leaves), leaves)
        plain = SF.siglip_loss(*leaves, -3.0) + SF.softplus_similarity(*leaves).mean()
        for found, wanted in zip(slopes, torch.autograd.grad(plain, leaves), strict=True):
            torch.testing.assert_close(found, wanted)


AGAINST_THE_ORACLE = """
import sys
sys.path.insert(0, {folder!r})
import torch, test_sigmoid_values as values
from sslkernels import _C
assert _C.isa() == {isa!r}
torch.manual_seed(0)
for dtype in values.SUMS:
    for n, m, d in ((1, 1, 1), (3, 2, 257), (17, 33, 31), (34, 17, 3), (210, 230, 33)):
        values.check(n, m, d, dtype, "cpu")
        values.check(n, None, d, dtype, "cpu")
    values.test_siglip_one_by_one("cpu", dtype)
values.test_every_size_of_logit_is_exact("cpu", torch.float32)
values.test_thousands_of_small_terms_do_not_drown("cpu")
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_every_instruction_set_agrees(isa: str, run_python: Callable) -> None:
    folder = str(Path(__file__).parent)
    done = run_python(AGAINST_THE_ORACLE.format(isa=isa, folder=folder), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr
