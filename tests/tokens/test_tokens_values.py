# SPDX-License-Identifier: Apache-2.0
"""Compare moved and measured tokens with loops in float64: values, gradients, layouts, and wrong indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokens_oracle as oracle
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.gradcheck import gradcheck

import sslkernels.functional as SF
from sslkernels.ops.tokens import cpu

pytestmark = pytest.mark.usefixtures("poisoned_outputs")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EPS = {torch.float64: 2.0**-52, torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
# batch, tokens, kept, channels
SHAPES = ((2, 5, 3, 4), (3, 7, 7, 1), (1, 9, 0, 33), (4, 16, 40, 130), (1, 300, 100, 3), (2, 4, 1, 1025))
INTEGERS = (torch.int64, torch.int32)
SHARED = 8  # allowed roundings, because at most so many rows share an index


def double(x: Tensor) -> Any:
    return x.detach().double().numpy()


def check(actual: Tensor, expected: Any, dtype: torch.dtype, terms: float = 1) -> None:
    want = torch.as_tensor(expected)
    assert actual.dtype == dtype and actual.shape == want.shape
    torch.testing.assert_close(actual.double(), want, rtol=terms * EPS[dtype], atol=terms * EPS[dtype])


def permuted(batch: int, length: int, kept: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(batch, length).argsort(dim=1)[:, :kept].to(dtype)


@pytest.mark.parametrize("integer", INTEGERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gather_tokens(backend: str, shape: tuple[int, ...], dtype: torch.dtype, integer: torch.dtype) -> None:
    """Values are moved and not changed; rows that are read twice get both gradients."""
    batch, length, kept, channels = shape
    x = torch.randn(batch, length, channels).to(dtype).requires_grad_()
    index = torch.randint(length, (batch, kept)).to(integer)
    out = SF.gather_tokens(x, index, backend=backend)
    assert torch.equal(out.detach().double(), torch.as_tensor(oracle.gather(double(x), index.numpy())))
    grad = torch.randn(batch, kept, channels).to(dtype)
    out.backward(grad)
    check(x.grad, oracle.scatter(double(grad), index.numpy(), length, np.zeros(channels)), dtype, terms=SHARED)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pos_dtype", (torch.float32, None), ids=("fp32 pos", "same pos"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gather_with_position(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, pos_dtype: torch.dtype | None
) -> None:
    """Positions are added in fp32 and rounded once to the dtype of x + pos; their gradient sums over the batch."""
    batch, length, kept, channels = shape
    x = torch.randn(batch, length, channels).to(dtype).requires_grad_()
    pos = torch.randn(1, length, channels).to(pos_dtype or dtype).requires_grad_()
    index = torch.randint(length, (batch, kept))
    out = SF.gather_tokens(x, index, pos=pos, backend=backend)
    result = (x + pos).dtype
    check(out, oracle.gather(double(x), index.numpy(), double(pos)[0]), result)
    grad = torch.randn(batch, kept, channels).to(result)
    out.backward(grad)
    dx = oracle.scatter(double(grad), index.numpy(), length, np.zeros(channels))
    check(x.grad, dx, dtype, terms=SHARED)
    check(pos.grad[0], dx.sum(0), pos.dtype, terms=4)


@pytest.mark.parametrize("integer", INTEGERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scatter_tokens(backend: str, shape: tuple[int, ...], dtype: torch.dtype, integer: torch.dtype) -> None:
    batch, length, kept, channels = shape
    x = torch.randn(batch, kept, channels).to(dtype).requires_grad_()
    index = torch.randint(length, (batch, kept)).to(integer)
    for fill in (0.0, -1.5, torch.randn(channels, requires_grad=True)):
        x.grad = None
        out = SF.scatter_tokens(x, index, length, fill=fill, backend=backend)
        filling = double(fill) if isinstance(fill, Tensor) else np.full(channels, fill)
        check(out, oracle.scatter(double(x), index.numpy(), length, filling), dtype, terms=SHARED)
        grad = torch.randn(batch, length, channels).to(dtype)
        out.backward(grad)
        assert torch.equal(x.grad.double(), torch.as_tensor(oracle.gather(double(grad), index.numpy())))
        if isinstance(fill, Tensor):
            taken = np.zeros((batch, length), bool)
            np.put_along_axis(taken, index.numpy().astype(np.int64), True, 1)
            check(fill.grad, double(grad)[~taken].sum(0), torch.float32, terms=8)


@pytest.mark.parametrize("prefix", (0, 1, 2))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[2] <= shape[1]], ids=str)
def test_restore_tokens(backend: str, shape: tuple[int, ...], dtype: torch.dtype, prefix: int) -> None:
    batch, length, kept, channels = shape
    visible = torch.randn(batch, prefix + kept, channels).to(dtype).requires_grad_()
    token = torch.randn(1, 1, channels, requires_grad=True)
    pos = torch.randn(prefix + length, channels, requires_grad=True)
    ids = permuted(batch, length, length, torch.int64)
    for with_pos in (None, pos):
        visible.grad = token.grad = None
        out = SF.restore_tokens(visible, ids, token, pos=with_pos, prefix=prefix, backend=backend)
        result = dtype if with_pos is None else (visible + pos[:1]).dtype
        position = None if with_pos is None else double(pos)
        check(out, oracle.restore(double(visible), ids.numpy(), double(token)[0, 0], position, prefix), result)
        grad = torch.randn(batch, prefix + length, channels).to(result)
        out.backward(grad)
        exact = double(grad)
        dvisible = np.zeros(visible.shape)
        dvisible[:, :prefix] = exact[:, :prefix]
        masked = np.zeros(channels)
        for b in range(batch):
            for place, rank in enumerate(ids[b].tolist()):
                if rank < kept:
                    dvisible[b, prefix + rank] = exact[b, prefix + place]
                else:
                    masked += exact[b, prefix + place]
        check(visible.grad, dvisible, dtype)
        check(token.grad[0, 0], masked, torch.float32, terms=16)
        if with_pos is not None:
            check(pos.grad, exact.sum(0), torch.float32, terms=8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_apply_masks(backend: str, dtype: torch.dtype) -> None:
    """Sets follow each other along the batch; a token that several sets read gets the gradients of all."""
    x = torch.randn(3, 10, 7).to(dtype).requires_grad_()
    masks = [torch.randint(10, (3, 4)) for _ in range(5)]
    out = SF.apply_masks(x, masks, backend=backend)
    want = np.concatenate([oracle.gather(double(x), mask.numpy()) for mask in masks])
    assert torch.equal(out.detach().double(), torch.as_tensor(want))
    grad = torch.randn(15, 4, 7).to(dtype)
    out.backward(grad)
    parts = [oracle.scatter(double(g), m.numpy(), 10, np.zeros(7)) for g, m in zip(grad.split(3), masks, strict=True)]
    check(x.grad, np.sum(parts, 0), dtype, terms=SHARED)
    views = SF.apply_masks(x, masks, concat=False, backend=backend)
    assert len(views) == 5 and torch.equal(torch.cat(views), out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", (1, 2, 4))
def test_patchify_gather(backend: str, patch: int, dtype: torch.dtype) -> None:
    images = torch.randn(3, 2, 8, 12).to(dtype).requires_grad_()
    index = torch.randint(96 // patch**2, (3, 5))
    out = SF.patchify_gather(images, index, patch, backend=backend)
    assert torch.equal(out.detach().double(), torch.as_tensor(oracle.patches(double(images), index.numpy(), patch)))
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)
    want = np.zeros(images.shape)
    for b in range(3):
        for k in range(5):
            top, left = divmod(int(index[b, k]), 12 // patch)
            where = (b, slice(None), slice(top * patch, (top + 1) * patch), slice(left * patch, (left + 1) * patch))
            want[where] += double(grad)[b, k].reshape(2, patch, patch)
    check(images.grad, want, dtype, terms=2)


def test_patchify_gather_is_the_convolution_of_kept_patches(backend: str) -> None:
    convolution = torch.nn.Conv2d(3, 6, 4, 4).double()
    images, index = torch.randn(2, 3, 8, 16).double(), permuted(2, 8, 3, torch.int64)
    patches = SF.patchify_gather(images, index, 4, backend=backend)
    embedded = torch.nn.functional.linear(patches, convolution.weight.flatten(1), convolution.bias)
    every = convolution(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedded, every.gather(1, index[..., None].expand(-1, -1, 6)))


# --- regression -----------------------------------------------------------------------------------------------------

REGRESSIONS: dict[str, tuple[Callable[..., Tensor], Callable[..., float], dict[str, Any]]] = {
    "mse": (SF.masked_mse, lambda p, t, m: oracle.masked_mse(p, t, m, False), {}),
    "mse normalized": (SF.masked_mse, lambda p, t, m: oracle.masked_mse(p, t, m, True), {"normalize_target": True}),
    "l1": (SF.masked_smooth_l1, lambda p, t, m: oracle.masked_smooth_l1(p, t, m, 1.0, False), {}),
    "l1 normalized": (
        SF.masked_smooth_l1,
        lambda p, t, m: oracle.masked_smooth_l1(p, t, m, 0.5, True),
        {"beta": 0.5, "normalize_target": True},
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "target_dtype", (*DTYPES, None), ids=("fp64 target", "fp32 target", "bf16 target", "fp16 target", "same target")
)
@pytest.mark.parametrize("channels", (2, 33, 770))
@pytest.mark.parametrize("loss", REGRESSIONS)
def test_regression(
    backend: str, loss: str, channels: int, dtype: torch.dtype, target_dtype: torch.dtype | None
) -> None:
    function, formula, options = REGRESSIONS[loss]
    pred = torch.randn(3, 9, channels).to(dtype).requires_grad_()
    target = (3 + 2 * torch.randn(3, 9, channels)).to(target_dtype or dtype)
    mask = (torch.rand(3, 9) < 0.6).float()
    value = function(pred, target, mask, backend=backend, **options)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    goal = target.to(wide) if torch.float64 in (dtype, target.dtype) else target
    exact = formula(double(pred), double(goal), double(mask))
    check(value, exact, wide, terms=16)
    value.backward()
    assert pred.grad.dtype == dtype and (pred.grad[mask == 0] == 0).all()
    step, direction = 1e-6, torch.randn(pred.shape).double()
    slope = (
        formula(double(pred) + step * direction.numpy(), double(goal), double(mask))
        - formula(double(pred) - step * direction.numpy(), double(goal), double(mask))
    ) / (2 * step)
    along = float((pred.grad.double() * direction).sum())
    assert abs(along - slope) <= 1e-6 + 2 * EPS[dtype] * float((pred.grad.double() * direction).norm()) + 1e-5 * abs(
        slope
    )


def regression_gradient(loss: str, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Differentiate the formula in float64."""
    pred, target = pred.detach().double().requires_grad_(), target.double()
    if loss == "mse normalized":
        target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
    if loss == "l1 normalized":
        target = torch.nn.functional.layer_norm(target, target.shape[2:])
    if loss.startswith("mse"):
        errors = (pred - target).square().mean(2)
    else:
        beta = REGRESSIONS[loss][2].get("beta", 1.0)
        errors = torch.nn.functional.smooth_l1_loss(pred, target, beta=beta, reduction="none").mean(2)
    ((errors * mask.double()).sum() / mask.double().sum().clamp_min(1)).backward()
    return pred.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", REGRESSIONS)
def test_regression_at_any_incoming_gradient(backend: str, loss: str, dtype: torch.dtype) -> None:
    """The graph is kept, and each gradient is rounded once, after it was multiplied."""
    function, _, options = REGRESSIONS[loss]
    pred, target = torch.randn(2, 9, 70).to(dtype).requires_grad_(), (3 + torch.randn(2, 9, 70)).to(dtype)
    mask = torch.rand(2, 9) * (torch.rand(2, 9) < 0.7)
    exact = regression_gradient(loss, pred, target, mask)
    value = function(pred, target, mask, backend=backend, **options)
    for scale in (1.0, 1.0, 0.0, -3.0, 65536.0, 65536.0, 1.0):
        grad = torch.tensor(scale, dtype=value.dtype)
        (found,) = torch.autograd.grad(value, pred, grad, retain_graph=True)
        assert found.dtype == dtype and (found[mask == 0] == 0).all()
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        sums = 64 * EPS[torch.float64 if dtype == torch.float64 else torch.float32]
        allowed = EPS[dtype] / 2 * exact.abs() + sums * exact.abs().max()
        assert ((found.double() - scale * exact).abs() <= abs(scale) * allowed + smallest).all()
        found.fill_(torch.nan)  # the next gradient is another tensor


@pytest.mark.parametrize("loss", REGRESSIONS)
def test_the_value_is_the_same_without_a_gradient(backend: str, loss: str) -> None:
    function, _, options = REGRESSIONS[loss]
    pred, target, mask = torch.randn(3, 5, 777), torch.randn(3, 5, 777), torch.rand(3, 5)
    alone = function(pred, target, mask, backend=backend, **options)
    with torch.no_grad():
        assert torch.equal(function(pred.clone().requires_grad_(), target, mask, backend=backend, **options), alone)
    assert torch.equal(function(pred.clone().requires_grad_(), target, mask, backend=backend, **options), alone)


def test_slices_of_tokens_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    plain = cpu._C.tokens_masked_error
    monkeypatch.setattr(cpu._C, "tokens_masked_error", lambda *given: calls.append(given) or plain(*given))
    whole, other, mask = torch.randn(3, 9, 16, requires_grad=True), torch.randn(3, 12, 16), torch.rand(3, 8)
    pred, target = whole[:, 1:], other[:, 2:10]
    SF.masked_mse(pred, target, mask, backend="cpu").backward()
    ((_, pred_at, *_),) = calls
    assert pred_at == pred.data_ptr() and calls[0][5] == target.data_ptr()
    (wanted,) = torch.autograd.grad(
        SF.masked_mse((copy := pred.detach().clone().requires_grad_()), target.clone(), mask, backend="cpu"), copy
    )
    assert torch.equal(whole.grad[:, 1:], wanted) and (whole.grad[:, 0] == 0).all()


def test_threads_change_no_bit_of_a_regression(set_threads: Callable[[int], None]) -> None:
    pred, target, mask = torch.randn(4, 50, 600, requires_grad=True), torch.randn(4, 50, 600), torch.rand(4, 50)
    found = []
    for threads in (1, 2):
        set_threads(threads)
        value = SF.masked_mse(pred, target, mask, normalize_target=True, backend="cpu")
        found.append((value, *torch.autograd.grad(value, pred)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_large_errors_have_a_mean_where_their_sum_overflows(backend: str) -> None:
    pred = torch.full((40, 50, 2), 1e18, requires_grad=True)
    value = SF.masked_mse(pred, torch.zeros(40, 50, 2), torch.ones(40, 50), backend=backend)
    torch.testing.assert_close(value, torch.tensor(1e36))


@pytest.mark.parametrize("loss", REGRESSIONS)
def test_rows_that_do_not_count_are_not_read(backend: str, loss: str) -> None:
    function, _, options = REGRESSIONS[loss]
    pred, target, mask = torch.randn(2, 4, 6), torch.randn(2, 4, 6), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]])
    clean = function(pred, target, mask, backend=backend, **options)
    pred[0, 1], target[1, 2] = torch.nan, torch.inf
    pred.requires_grad_()
    value = function(pred, target, mask.bool(), backend=backend, **options)
    assert torch.equal(value, clean)
    value.backward()
    assert pred.grad.isfinite().all()


def test_no_masked_token_is_no_loss(backend: str) -> None:
    pred = torch.randn(2, 3, 4, requires_grad=True)
    value = SF.masked_mse(pred, torch.randn(2, 3, 4), torch.zeros(2, 3), backend=backend)
    value.backward()
    assert value == 0 and (pred.grad == 0).all()


def test_a_target_far_from_zero_is_normalised_to_rounding(backend: str) -> None:
    pred, target = torch.randn(1, 3, 500), 1000 + torch.randn(1, 3, 500)
    value = SF.masked_mse(pred, target, torch.ones(1, 3), normalize_target=True, backend=backend)
    exact = oracle.masked_mse(double(pred), double(target), np.ones((1, 3)), True)
    assert abs(float(value) - exact) < 1e-4 * exact


# --- the family together --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", (0, 1, 5, 9))
def test_scatter_is_the_adjoint_of_gather(backend: str, kept: int) -> None:
    """<gather(x), y> = <x, scatter(y)> in float64, whether or not the index repeats."""
    for repeats in (False, True):
        index = torch.randint(9, (3, kept)) if repeats else permuted(3, 9, kept, torch.int64)
        x, y = torch.randn(3, 9, 6).double(), torch.randn(3, kept, 6).double()
        left = (SF.gather_tokens(x, index, backend=backend) * y).sum()
        right = (x * SF.scatter_tokens(y, index, 9, backend=backend)).sum()
        torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)


def test_gradcheck(backend: str) -> None:
    x, pos = torch.randn(2, 5, 3).double().requires_grad_(), torch.randn(5, 3).double().requires_grad_()
    index = torch.tensor([[4, 4, 0], [1, 2, 1]])
    fill = torch.randn(3).double().requires_grad_()
    ids = permuted(2, 7, 7, torch.int64)
    places = torch.randn(7, 3).double().requires_grad_()
    pixels = torch.randn(2, 2, 4, 4).double().requires_grad_()
    target, mask = torch.randn(2, 5, 3).double(), torch.tensor([[1, 0, 1, 1, 0], [0, 1, 0, 0, 1]])
    for function, inputs in (
        (lambda x, pos: SF.gather_tokens(x, index, pos=pos, backend=backend), (x, pos)),
        (lambda x, fill: SF.scatter_tokens(x[:, :3], index, 6, fill=fill, backend=backend), (x, fill)),
        (
            lambda x, token, pos: SF.restore_tokens(x, ids[:, :6], token, pos=pos, prefix=1, backend=backend),
            (x, fill, places),
        ),
        (lambda x: SF.apply_masks(x, [index, index.flip(1)], backend=backend), (x,)),
        (lambda images: SF.patchify_gather(images, index[:, :2] % 4, 2, backend=backend), (pixels,)),
        (lambda x: SF.masked_mse(x, target, mask, normalize_target=True, backend=backend), (x,)),
        (lambda x: SF.masked_smooth_l1(x, target, mask, normalize_target=True, backend=backend), (x,)),
    ):
        assert gradcheck(function, inputs)


@given(st.data())
def test_odd_layouts(data: st.DataObject) -> None:
    """Samples and tokens have strides of any kind, even zero and backward ones, and odd addresses."""
    batch, length, channels = (data.draw(st.integers(1, high), name) for high, name in ((3, "B"), (6, "L"), (20, "C")))
    kept, offset = data.draw(st.integers(0, 8), "K"), data.draw(st.integers(0, 3), "offset")
    dtype = data.draw(st.sampled_from((torch.float32, torch.bfloat16)), "dtype")
    storage = torch.randn(4 * 8 * 64 + offset).to(dtype)[offset:]
    row = data.draw(st.sampled_from((0, channels, channels + 1, 40)), "row stride")
    sample = data.draw(st.sampled_from((0, length * channels, 300)), "sample stride")
    inner = data.draw(st.sampled_from((1, 1, 2)), "inner stride")
    x = storage.as_strided((batch, length, channels), (sample, row, inner))
    index = torch.randint(length, (kept, batch)).T
    plain = x.contiguous()
    for function in (
        lambda x: SF.gather_tokens(x, index, backend="cpu"),
        lambda x: SF.scatter_tokens(x, torch.arange(length).flip(0).expand(batch, length), length + 2, backend="cpu"),
        lambda x: SF.apply_masks(x, [index, index], backend="cpu"),
        lambda x: SF.restore_tokens(x, torch.arange(9).expand(batch, 9), torch.ones(channels), backend="cpu"),
    ):
        assert torch.equal(function(x), function(plain))


@pytest.mark.parametrize("wrong", (-1, 5, 2**31 - 1))
def test_an_index_outside_is_an_index_error(backend: str, wrong: int) -> None:
    x, index = torch.zeros(1, 5, 2), torch.tensor([[0, wrong]], dtype=torch.int32)
    for call in (
        lambda: SF.gather_tokens(x, index, backend=backend),
        lambda: SF.scatter_tokens(x[:, :2], index, 5, backend=backend),
        lambda: SF.apply_masks(x, [index, index], backend=backend),
        lambda: SF.patchify_gather(torch.zeros(1, 1, 2, 10), index, 2, backend=backend),
    ):
        with pytest.raises(IndexError, match=rf"index\[0, 1\] is {wrong}; accepted are from 0 to 4"):
            call()
    with pytest.raises(IndexError, match=r"index\[0, 0\] is -3; accepted are from 0 on"):
        SF.restore_tokens(x, torch.tensor([[-3, 0]]), torch.zeros(2), backend=backend)


def test_addresses_past_two_to_the_31(backend: str) -> None:
    """Eight gigabytes of addresses take only two rows of memory, since the system provides what is touched."""
    if backend == "reference":
        pytest.skip("it copies what it reads")
    x = torch.empty((2, 2**21 + 8, 1024), dtype=torch.bfloat16)
    x[1, -1] = 7
    out = SF.gather_tokens(x, torch.tensor([[0], [2**21 + 7]]), backend=backend)
    assert (out[1] == 7).all()


def test_same_inputs_same_bits(set_threads: Callable[[int], None]) -> None:
    """Rows that repeat are summed in the order of the index, at any number of threads."""
    x, index = torch.randn(1, 200, 40), torch.randint(5, (1, 200))
    found = []
    for threads in (1, 2, 3):
        set_threads(threads)
        found.append(SF.scatter_tokens(x, index, 5, backend="cpu"))
    assert all(torch.equal(found[0], other) for other in found)


def test_arrays_of_other_libraries_are_read_where_they_lie(backend: str) -> None:
    x, index = np.random.default_rng(0).normal(size=(2, 4, 3)), np.array([[0, 3], [2, 2]])
    out = SF.gather_tokens(x, index, backend=backend)
    assert torch.equal(out, torch.as_tensor(oracle.gather(x, index)))


def test_frozen_inputs_get_no_gradient(backend: str) -> None:
    visible, ids = torch.randn(2, 3, 4), permuted(2, 6, 6, torch.int64)
    token, pos = torch.randn(4, requires_grad=True), torch.randn(6, 4)
    SF.restore_tokens(visible, ids, token, pos=pos, backend=backend).sum().backward()
    assert visible.grad is None and pos.grad is None
    torch.testing.assert_close(token.grad, torch.full((4,), 6.0))


def test_a_second_derivative_is_refused(backend: str) -> None:
    x = torch.randn(1, 3, 2, requires_grad=True)
    (slope,) = torch.autograd.grad(
        SF.gather_tokens(x, torch.tensor([[1]]), backend=backend).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="first derivatives only"):
        slope.sum().backward()


WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_whole_numbers_are_gathered_as_they_are(backend: str, dtype: torch.dtype) -> None:
    """Word ids and labels are gathered like the tokens to which they belong, as torch.gather does it."""
    x = torch.randint(-(2**62), 2**62, (3, 7, 2)).to(dtype)
    index = torch.randint(7, (3, 5))
    expected = torch.stack([sample[places] for sample, places in zip(x, index, strict=True)])
    out = SF.gather_tokens(x, index, backend=backend)
    assert out.dtype == dtype and torch.equal(out, expected)
    first, second = SF.apply_masks(x, [index, index.flip(1)], concat=False, backend=backend)
    assert torch.equal(first, expected) and torch.equal(second, expected.flip(1))
    with pytest.raises(IndexError, match=r"index\[0, 0\] is 7; accepted are from 0 to 6"):
        SF.gather_tokens(x, index + 7 - index[0, 0], backend=backend)
    with pytest.raises(TypeError, match="pos came with x of dtype"):
        SF.gather_tokens(x, index, pos=torch.zeros(7, 2), backend=backend)


TOKENS, INDEX = torch.zeros(2, 5, 3), torch.zeros(2, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    (
        (lambda: SF.gather_tokens([1.0], INDEX), TypeError, "x is a list; pass a torch.Tensor of shape (B, L, C)"),
        (lambda: SF.gather_tokens(TOKENS[0], INDEX), ValueError, "x has shape (5, 3); expected (B, L, C)"),
        (lambda: SF.gather_tokens(TOKENS.cfloat(), INDEX), TypeError, "x has dtype torch.complex64"),
        (lambda: SF.gather_tokens(TOKENS, INDEX.bool()), TypeError, "For a mask pass its indices"),
        (lambda: SF.gather_tokens(TOKENS, INDEX[:1]), ValueError, "expected (B, K) with B = 2"),
        (lambda: SF.gather_tokens(TOKENS, [[0]]), TypeError,
            "index is a list; pass a torch.Tensor of shape (B, K), int64 or int32"),
        (lambda: SF.gather_tokens(TOKENS, INDEX, pos=TOKENS[0, :4]), ValueError, "pos has shape (4, 3); expected"),
        (lambda: SF.gather_tokens(TOKENS, INDEX, pos=2.0), TypeError,
            "pos is a float; pass a torch.Tensor of shape (L, C)"),
        (lambda: SF.scatter_tokens(TOKENS, INDEX, 9), ValueError, "every token needs one index"),
        (lambda: SF.scatter_tokens(TOKENS[:, :2], INDEX, -1), ValueError, "length is -1"),
        (
            lambda: SF.scatter_tokens(TOKENS[:, :2], INDEX, 9, fill=torch.zeros(2)), ValueError,
            "fill has shape (2,); expected 3 elements",
        ),
        (lambda: SF.restore_tokens(TOKENS, INDEX, torch.zeros(4)), ValueError, "mask_token has shape (4,)"),
        (lambda: SF.restore_tokens(TOKENS, INDEX, torch.zeros(3), prefix=6), ValueError, "prefix is 6"),
        (lambda: SF.apply_masks(TOKENS, INDEX), TypeError, "masks is a Tensor; pass a list of index tensors"),
        (lambda: SF.apply_masks(TOKENS, []), ValueError, "masks has length 0; pass a list of index tensors"),
        (lambda: SF.apply_masks(TOKENS, [INDEX, INDEX[:, :1]]), ValueError, "Cut them to the shortest"),
        (lambda: SF.patchify_gather(TOKENS, INDEX, 2), ValueError, "images has shape (2, 5, 3)"),
        (lambda: SF.patchify_gather(TOKENS[None], INDEX[:1], 2), ValueError, "patch is 2; it must divide H and W"),
        (lambda: SF.patchify_gather(TOKENS[None], INDEX[:1], 0), ValueError, "patch is 0"),
        (lambda: SF.masked_mse(TOKENS, TOKENS[:, :4], TOKENS[..., 0]), ValueError, "both need the same"),
        (lambda: SF.masked_mse(TOKENS, TOKENS, INDEX), ValueError, "mask has shape (2, 2); expected (2, 5)"),
        (
            lambda: SF.masked_mse(TOKENS, TOKENS.clone().requires_grad_(), TOKENS[..., 0]), ValueError,
            "pass target.detach()",
        ),
        (
            lambda: SF.masked_mse(TOKENS[..., :1], TOKENS[..., :1], TOKENS[..., 0], normalize_target=True), ValueError,
            "no variance",
        ),
        (lambda: SF.masked_smooth_l1(TOKENS, TOKENS, beta=0.0), ValueError,
            "beta is 0.0; pass a finite number of at least"),
        (lambda: SF.masked_smooth_l1(TOKENS, TOKENS, beta=1e-46), ValueError,
            "beta is 1e-46; pass a finite number of at least"),
        (lambda: SF.scatter_tokens(TOKENS, INDEX, 9, fill="a"), ValueError, "every token needs one index"),
        (lambda: SF.scatter_tokens(TOKENS[:, :2], INDEX, 9, fill="a"), TypeError, "fill is a str; pass a number"),
        (lambda: SF.scatter_tokens(TOKENS[:, :2], INDEX, 9, fill=1e300), ValueError, "fill is 1e+300; pass a finite"),
        (lambda: SF.gather_tokens(TOKENS, INDEX.to_sparse()), TypeError, "index has layout torch.sparse_coo"),
        (lambda: SF.gather_tokens(TOKENS, INDEX, backend="cuda"), ValueError, "backend 'cuda' cannot run"),
    ),
)  # fmt: skip
def test_errors_say_what_came(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error) as raised:
        call()
    assert words in str(raised.value)
