# SPDX-License-Identifier: Apache-2.0
"""Compare negative_cosine_similarity, byol_loss and the module with the float64 oracle: values and gradients."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import rows_oracle
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.losses import NegativeCosineSimilarity
from sslkernels.ops.rows import cosine as op
from sslkernels.ops.rows import cpu
from sslkernels.ops.rows.cosine import row_cosine

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
SIZES = ((1, 1), (1, 5), (3, 2), (17, 33), (5, 64), (4, 257), (300, 130))
# Our loss of two sides and the oracle's, each with one loss per row.
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "negative_cosine_similarity": (SF.negative_cosine_similarity, lambda a, b: -rows_oracle.cosine(a, b)),
    "byol_loss": (SF.byol_loss, lambda a, b: (rows_oracle.unit(a) - rows_oracle.unit(b)).square().sum(1)),
}


@pytest.fixture(params=LOSSES, scope="session")
def loss(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    return LOSSES[request.param]


def pair(n: int, d: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Make two views that are similar but not equal."""
    x = torch.randn(n, d)
    return [view.to(dtype).requires_grad_() for view in (x.clone(), x + torch.randn(n, d))]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_gradients(found: list[Tensor], exact: list[Tensor], inputs: list[Tensor], grad: Tensor, eps: float) -> None:
    """Allow each row a few roundings of its sums, which cancel where rows agree, and one rounding of its dtype."""
    for gradient, slope, x in zip(found, exact, inputs, strict=True):
        assert gradient.dtype == x.dtype and gradient.shape == x.shape
        norms = torch.linalg.vector_norm(x.detach().double(), dim=1, keepdim=True).clamp_min(eps)
        smallest = torch.finfo(x.dtype).smallest_normal * torch.finfo(x.dtype).eps
        allowed = 16 * EPS[wide(x.dtype)] * grad.double().abs()[:, None] / norms + EPS[x.dtype] * slope.abs() + smallest
        assert ((gradient.double() - slope).abs() <= allowed).all()


def check(x: Tensor, y: Tensor, eps: float, backend: str) -> None:
    """Compare cosines and both gradients with the oracle's."""
    leaves = [x.detach().requires_grad_(), y.detach().requires_grad_()]
    cosines = row_cosine(*leaves, eps, backend=backend)
    assert cosines.dtype == wide(x.dtype) and cosines.shape == (len(x),)
    torch.testing.assert_close(
        cosines.double(), rows_oracle.cosine(x, y, eps).detach(), rtol=0, atol=16 * EPS[wide(x.dtype)]
    )
    grad = torch.randn(len(x), dtype=cosines.dtype)
    found = torch.autograd.grad(cosines, leaves, grad)
    exact = rows_oracle.gradients(lambda a, b: (rows_oracle.cosine(a, b, eps) * grad).sum(), leaves)
    check_gradients(list(found), exact, leaves, grad, eps)


# --- values and gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n, d", SIZES)
def test_cosines_and_gradients(backend: str, n: int, d: int, dtype: torch.dtype) -> None:
    check(*pair(n, d, dtype), 1e-8, backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_losses(backend: str, loss: tuple, dtype: torch.dtype) -> None:
    ours, exact = loss
    inputs = pair(9, 33, dtype)
    rows = exact(*inputs).detach()
    close = {"rtol": 0, "atol": 64 * EPS[wide(dtype)]}
    got = ours(*inputs, reduction="none", backend=backend)
    assert got.dtype == wide(dtype)
    torch.testing.assert_close(got.double(), rows, **close)
    for reduction, value in (("mean", rows.mean()), ("sum", rows.sum())):
        reduced = ours(*inputs, reduction=reduction, backend=backend)
        assert reduced.shape == () and reduced.dtype == wide(dtype)
        torch.testing.assert_close(reduced.double(), value, rtol=0, atol=9 * close["atol"])
        found = torch.autograd.grad(reduced, inputs)
        slopes = rows_oracle.gradients(lambda *x, r=reduction: getattr(exact(*x), r)(), inputs)
        each = torch.full((9,), 2 / 9 if reduction == "mean" else 2.0)
        check_gradients(list(found), slopes, inputs, each, 1e-12)


def test_gradcheck(backend: str) -> None:
    inputs = pair(5, 7, torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: row_cosine(a, b, 1e-8, backend=backend), inputs)
    clamped = [x.detach().mul(1e-2).requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda a, b: row_cosine(a, b, 1.0, backend=backend), clamped)
    assert torch.autograd.gradcheck(lambda a, b: row_cosine(a, b, 1.0, backend=backend), [inputs[0], clamped[1]])


def test_a_row_with_itself(backend: str) -> None:
    """One leaf is on both sides: its two gradients, each nearly zero, add up."""
    x = torch.randn(6, 40, requires_grad=True)
    value = SF.byol_loss(x, x, reduction="none", backend=backend)
    assert (value.abs() <= 1e-6).all()
    value.sum().backward()
    assert (x.grad.abs() <= 1e-6).all()


# --- the ends of the range ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_zeros(backend: str, dtype: torch.dtype) -> None:
    """The cosine is 0. The gradient is the formula's with eps for the norm, and 0 if both rows are zeros."""
    eps = 1e-3  # its inverse fits float16
    x, y = torch.randn(4, 6).to(dtype), torch.randn(4, 6).to(dtype)
    x[1], y[2], x[3], y[3] = 0, 0, 0, 0
    check(x, y, eps, backend)
    leaves = [x.requires_grad_(), y.requires_grad_()]
    cosines = row_cosine(*leaves, eps, backend=backend)
    assert (cosines[1:] == 0).all()
    dx, dy = torch.autograd.grad(cosines.sum(), leaves)
    assert (dx[3] == 0).all() and (dy[3] == 0).all() and (dy[1] == 0).all() and (dx[2] == 0).all()
    torch.testing.assert_close(
        dx[1].double(), rows_oracle.unit(y.detach())[1] / eps, rtol=2 * EPS[dtype] + 8 * EPS[wide(dtype)], atol=0
    )


def test_a_zero_row_is_finite_with_the_usual_eps(backend: str, loss: tuple) -> None:
    x, y = torch.zeros(2, 6, requires_grad=True), torch.randn(2, 6, requires_grad=True)
    loss[0](x, y, backend=backend).backward()
    assert x.grad.isfinite().all() and (x.grad != 0).all() and (y.grad == 0).all()


@pytest.mark.parametrize("eps", [1e-30, 1e-8, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_squares_that_leave_the_range(backend: str, dtype: torch.dtype, eps: float) -> None:
    """Rows around 1e-25, 1e-18, 1, 1e18 and 1e25 meet in every combination, on either side."""
    sizes = torch.tensor([1e-25, 1e-18, 1.0, 1e18, 1e25])
    x = (torch.randn(25, 33) * sizes.repeat_interleave(5)[:, None]).to(dtype)
    y = (torch.randn(25, 33) * sizes.repeat(5)[:, None]).to(dtype)
    check(x, y, eps, backend)


def test_squares_that_leave_the_range_of_float64(backend: str) -> None:
    sizes = torch.tensor([1e-200, 1e-80, 1e80, 1e200], dtype=torch.float64)
    x, y = torch.randn(2, 4, 5, dtype=torch.float64) * sizes[:, None]
    found = row_cosine(x, y, 1e-30, backend=backend)
    units = [torch.nn.functional.normalize(z / z.abs().amax(1, keepdim=True), dim=1) for z in (x, y)]
    torch.testing.assert_close(found[2:], (units[0] * units[1]).sum(1)[2:], rtol=1e-12, atol=1e-15)
    assert (found[:2].abs() < 1e-90).all()  # the norms are 1e-200 and 1e-80, and count as 1e-30


def test_entries_of_one_row_may_lie_far_apart(backend: str) -> None:
    x = torch.tensor([[1e25, 1.0, 1e-25], [1e-25, 1e-28, 0.0]])
    check(x, x.flip(0).contiguous(), 1e-30, backend)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_no_number_spoils_only_itself(backend: str, bad: float) -> None:
    x, y = pair(4, 5)
    with torch.no_grad():
        x[1, 2] = bad
    cosines = row_cosine(x, y, 1e-8, backend=backend)
    dx, dy = torch.autograd.grad(cosines.sum(), (x, y))
    assert cosines.isnan().nonzero().flatten().tolist() == [1]
    for gradient in (dx, dy):
        assert gradient.isnan().any(1).nonzero().flatten().tolist() == [1]


def test_below_eps_the_gradient_is_that_of_the_formula(backend: str) -> None:
    """Below eps the value does not depend on the norm, and neither does the gradient: x / eps is linear."""
    x, y = pair(3, 4, torch.float64)
    short = x.detach().mul(1e-4).requires_grad_()
    (gradient,) = torch.autograd.grad(row_cosine(short, y, 1.0, backend=backend).sum(), short)
    torch.testing.assert_close(gradient, rows_oracle.unit(y.detach()), rtol=1e-12, atol=0)


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(backend: str, dtype: torch.dtype) -> None:
    """Rows lie apart or on top of each other, features lie apart, or the start is odd; each occurs on either side."""
    storage = torch.randn(40, 20).to(dtype)
    layouts = [
        storage[:6, :9],
        storage[1:13:2, 3:12],
        storage[:1, :9].expand(6, 9),
        storage[:6, :18:2],
        storage.T[:6, :9],
        storage.flatten()[5:59].view(6, 9),
        storage[0].as_strided((6, 9), (1, 1)),
    ]
    for x in layouts:
        for y in layouts:
            check(x, y, 1e-8, backend)


def test_a_gradient_of_any_stride(backend: str) -> None:
    x, y = pair(6, 4)
    cosines = row_cosine(x, y, 1e-8, backend=backend)
    grad = torch.randn(6)
    plain = torch.autograd.grad(cosines, (x, y), grad, retain_graph=True)
    spread = torch.stack((grad, torch.zeros(6)), 1)[:, 0]
    assert spread.stride() == (2,)
    strided = torch.autograd.grad(cosines, (x, y), spread, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, strided, strict=True))
    one = torch.autograd.grad(cosines, (x, y), torch.ones(()).expand(6), retain_graph=True)
    ones = torch.autograd.grad(cosines, (x, y), torch.ones(6))
    assert all(torch.equal(a, b) for a, b in zip(one, ones, strict=True))


def test_threads_change_no_bit(set_threads: Callable[[int], None]) -> None:
    x, y = pair(400, 200)
    found = []
    for threads in (1, 2):
        set_threads(threads)
        cosines = row_cosine(x, y, 1e-8, backend="cpu")
        value = SF.byol_loss(x, y, backend="cpu")
        found.append([cosines, *torch.autograd.grad(cosines.sum(), (x, y)), value, *torch.autograd.grad(value, (x, y))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- what is kept and what is not done ------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_costs_nothing(frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = pair(5, 8)
    both = torch.autograd.grad(SF.byol_loss(*inputs, backend="cpu"), inputs)
    inputs[frozen].requires_grad_(False)
    calls: list[tuple] = []
    plain = cpu._C.row_cosine_loss
    monkeypatch.setattr(cpu._C, "row_cosine_loss", lambda *given: calls.append(given) or plain(*given))
    (gradient,) = torch.autograd.grad(SF.byol_loss(*inputs, backend="cpu"), inputs[1 - frozen])
    assert torch.equal(gradient, both[1 - frozen])
    ((*_, dx, dy, _threads),) = calls
    assert (dx, dy)[frozen] == 0 and (dx, dy)[1 - frozen] != 0


def test_no_gradient_is_computed_where_none_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = pair(5, 8)
    value = SF.byol_loss(*inputs, backend="cpu")
    calls: list[tuple] = []
    plain = cpu._C.row_cosine_loss
    monkeypatch.setattr(cpu._C, "row_cosine_loss", lambda *given: calls.append(given) or plain(*given))
    with torch.no_grad():
        assert torch.equal(SF.byol_loss(*inputs, backend="cpu"), value)
    assert torch.equal(SF.byol_loss(*(x.detach() for x in inputs), backend="cpu"), value)
    assert len(calls) == 2 and all(call[-3:-1] == (0, 0) for call in calls)


def test_only_the_rows_and_three_numbers_of_each_are_kept(backend: str) -> None:
    inputs = pair(7, 50)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        SF.negative_cosine_similarity(*inputs, reduction="none", backend=backend)
    rows = [x for x in kept if x.dim() == 2 and x.shape[1] == 50]
    assert [x.data_ptr() for x in rows] == [x.data_ptr() for x in inputs]
    assert sum(x.numel() for x in kept) == 2 * 7 * 50 + 3 * 7


def test_a_side_that_is_overwritten_before_the_backward_is_noticed(backend: str) -> None:
    x, y = pair(4, 3)
    y = y.detach()
    value = SF.byol_loss(x, y, reduction="none", backend=backend)
    y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_a_frozen_side_may_be_overwritten_where_the_loss_is_a_number(backend: str) -> None:
    x, y = pair(4, 3)
    y = y.detach()
    (wanted,) = torch.autograd.grad(SF.byol_loss(x, y, backend=backend), x)
    value = SF.byol_loss(x, y, backend=backend)
    y.zero_()
    value.backward()
    assert torch.equal(x.grad, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_at_any_incoming_one(backend: str, loss: tuple, dtype: torch.dtype) -> None:
    """The backward runs twice, and has one rounding to the dtype of the rows."""
    ours, exact = loss
    inputs = pair(9, 33, dtype)
    value = ours(*inputs, backend=backend)
    slopes = rows_oracle.gradients(lambda *x: exact(*x).mean(), inputs)
    for grad in (1.0, 0.0, -3.0, 65536.0, 65536.0):
        found = torch.autograd.grad(value, inputs, torch.tensor(grad, dtype=value.dtype), retain_graph=True)
        each = torch.full((9,), abs(grad) * 2 / 9)
        check_gradients(list(found), [grad * slope for slope in slopes], inputs, each, 1e-12)


def test_a_gradient_is_scaled_before_it_is_rounded(backend: str) -> None:
    x, y = (30 * view.detach() for view in pair(64, 400, torch.float16))
    x.requires_grad_()
    value = SF.negative_cosine_similarity(x, y, backend=backend)
    (gradient,) = torch.autograd.grad(value, x, torch.tensor(65536.0))
    (exact,) = rows_oracle.gradients(lambda a: -rows_oracle.cosine(a, y).mean(), [x])
    assert (exact.abs() < 2**-14).all()  # these are subnormal in float16 without the factor
    error = (gradient.double() / 65536 - exact).norm() / exact.norm()
    assert error < 2e-3


# --- two dtypes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", DTYPES, ids=str)
def test_autocast_takes_two_dtypes_and_rounds_neither(backend: str, loss: tuple, other: torch.dtype) -> None:
    ours, exact = loss
    for swap in (False, True):
        inputs = [pair(5, 8)[0], pair(5, 8, other)[1]]
        inputs = inputs[::-1] if swap else inputs
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = ours(*inputs, backend=backend)
        torch.testing.assert_close(value.double(), exact(*inputs).mean(), rtol=0, atol=1e-5)
        for x, gradient in zip(inputs, torch.autograd.grad(value, inputs), strict=True):
            assert gradient.dtype == x.dtype and gradient.isfinite().all()
    if other != torch.float32:
        with pytest.raises(TypeError, match="convert one of them"):
            ours(*inputs, backend=backend)


# --- the module -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, dim",
    [((5, 7), 1), ((5, 7), -1), ((5, 7), 0), ((7,), 0), ((2, 7, 3), 1), ((2, 3, 7), 2), ((2, 3, 7), -1),
     ((7, 3, 2), 0), ((2, 7, 3, 4), 1), ((2, 3, 4, 7), -1), ((2, 3, 7, 4), -2)],
)  # fmt: skip
def test_module_is_lightlys_formula(shape: tuple[int, ...], dim: int) -> None:
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(2)]

    def formula(a: Tensor, b: Tensor) -> Tensor:
        norms = [x.pow(2).sum(dim).sqrt().clamp_min(1e-8) for x in (a, b)]
        return -((a * b).sum(dim) / (norms[0] * norms[1])).mean()

    value = NegativeCosineSimilarity(dim=dim)(*inputs)
    assert value.shape == () and value.dtype == torch.float32
    wide = [x.detach().double().requires_grad_() for x in inputs]
    torch.testing.assert_close(value.double(), formula(*wide), rtol=1e-6, atol=1e-6)
    slopes = torch.autograd.grad(formula(*wide), wide)
    for found, slope in zip(torch.autograd.grad(value, inputs), slopes, strict=True):
        torch.testing.assert_close(found.double(), slope, rtol=1e-5, atol=1e-6)


def test_module_takes_eps(backend: str) -> None:
    x, y = pair(3, 4)
    found = NegativeCosineSimilarity(eps=100.0)(x, y)
    torch.testing.assert_close(found.double(), -(x.double() * y.double()).sum(1).mean() / 1e4, rtol=1e-6, atol=0)


def test_module_copies_nothing_where_the_features_are_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = op.cosine_loss
    monkeypatch.setattr(op, "cosine_loss", lambda loss, *r: seen.append(loss.x.data_ptr()) or plain(loss, *r))
    for shape in ((5, 7), (2, 3, 7), (7,), (2, 3, 4, 7)):
        x = torch.randn(shape)
        NegativeCosineSimilarity(dim=-1)(x, torch.randn(shape))
        assert seen.pop() == x.data_ptr()


def test_module_has_no_state() -> None:
    module = NegativeCosineSimilarity(dim=2, eps=1e-6)
    assert module.state_dict() == {} and list(module.parameters()) == []
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert (twin.dim, twin.eps) == (2, 1e-6)
    assert (NegativeCosineSimilarity().dim, NegativeCosineSimilarity().eps) == (1, 1e-8)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x: SF.negative_cosine_similarity(x, x, eps=0), ("eps is 0", "at least 1e-30")),
        (lambda x: SF.negative_cosine_similarity(x, x, eps=float("nan")), ("eps is nan",)),
        (lambda x: SF.negative_cosine_similarity(x, x, eps="1"), ("eps is a str",)),
        (lambda x: NegativeCosineSimilarity(eps=-1.0), ("NegativeCosineSimilarity: eps is -1.0", "at least 1e-30")),
        (lambda x: NegativeCosineSimilarity(dim=1.0), ("NegativeCosineSimilarity: dim is 1.0", "whole number")),
        (lambda x: NegativeCosineSimilarity(dim=True), ("NegativeCosineSimilarity: dim is True", "whole number")),
        (lambda x: NegativeCosineSimilarity(dim=2)(x, x), ("x0 has shape (4, 3) and dim is 2", "features")),
        (lambda x: NegativeCosineSimilarity(dim=0)(x[0, 0], x), ("x0 has shape () and dim is 0",)),
        (lambda x: NegativeCosineSimilarity()(x, x[:3]), ("x0 has shape (4, 3) and x1 (3, 3)", "same")),
        (lambda x: NegativeCosineSimilarity()(x, [1.0]), ("x1 is a list",)),
        (lambda x: NegativeCosineSimilarity()(x.int(), x), ("x0 has dtype torch.int32",)),
        (lambda x: NegativeCosineSimilarity()(x[:0], x[:0]), ("(0, 3)", "at least one row")),
        (lambda x: NegativeCosineSimilarity()(x[:, :0], x[:, :0]), ("(4, 0)", "at least one feature")),
    ],
)
def test_a_wrong_argument_gets_a_sentence(call: Callable[[Tensor], Any], words: tuple[str, ...]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call(torch.ones(4, 3))
    sentence = str(caught.value)
    assert all(word in sentence for word in words), sentence
    assert sentence.endswith((".", "?"))
