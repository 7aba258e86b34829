# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests float32 and float16. bfloat16 is only moved, because the interpreter truncates to it instead of rounding.
test_triton_compile.py compiles the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted
from torch import Tensor

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    import sslkernels.functional as SF
    from sslkernels.ops.tokens import triton
    from sslkernels.ops.tokens.schema import Masked
    from sslkernels.ops.triton_launch import Area, Tile

    EPS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10}
    # This many programs fill the device. With 0, each program has all columns and the whole sum; with 2^20, both are
    # split as far as they go.
    IDLE, BUSY = 0, 1 << 20

    both_ways = pytest.mark.parametrize("small_blocks", (IDLE, BUSY), ids=("whole", "split"), indirect=True)
    dtypes = pytest.mark.parametrize("dtype", EPS, ids=("fp32", "fp16"))
    integers = pytest.mark.parametrize("integer", (torch.int32, torch.int64), ids=("int32", "int64"))
    kinds = pytest.mark.parametrize(
        ("dtype", "integer"), ((torch.float32, torch.int64), (torch.float16, torch.int32)), ids=("fp32", "fp16")
    )

    @pytest.fixture(autouse=True)
    def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make blocks so small that small problems cross many; poison new tensors."""
        monkeypatch.setattr(triton, "WIDEST", 16)
        for name in ("MOVE", "ERRORS", "SUMS"):
            monkeypatch.setattr(triton, name, Area(64, 4))
        monkeypatch.setattr(triton, "COLLECT", Tile(8, 4, 4))
        monkeypatch.setattr(triton, "HELD", 4)
        monkeypatch.setattr(triton, "RANKS", Tile(8, 16, 4))
        monkeypatch.setattr(triton, "processors", lambda _: getattr(request, "param", BUSY))
        poison_new_tensors(monkeypatch, triton)

    # --- what is computed, element by element in float64 ------------------------------------------------------------

    def entries(index: Tensor) -> Iterator[tuple[int, int, int, int]]:
        """Yield (m, b, k, index[m, b, k])."""
        for m, b, k in np.ndindex(*index.shape):
            yield m, b, k, int(index[m, b, k])

    def gathered(
        x: Tensor, index: Tensor, fill: Tensor | None, pos: Tensor | None, prefix: int, by_place: bool
    ) -> np.ndarray:
        (sets, batch, kept), length = index.shape, x.shape[1] - prefix
        tokens = x.double().numpy()
        out = np.full((sets * batch, prefix + kept, x.shape[2]), np.nan)
        for sample in range(sets * batch):
            out[sample, :prefix] = tokens[sample % batch, :prefix]
        for m, b, k, i in entries(index):
            if 0 <= i < length:
                out[m * batch + b, prefix + k] = tokens[b, prefix + i] + (
                    0 if pos is None or by_place else pos[i].double().numpy()
                )
            elif i >= length and fill is not None:
                out[m * batch + b, prefix + k] = fill.double().numpy()
        if pos is not None and by_place:
            out += pos.double().numpy()
        return out

    def collected(
        x: Tensor, index: Tensor, length: int, fill: Tensor | None, prefix: int, strict: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Collect tokens, and also sum their absolute values, to which rounding is relative."""
        sets, batch, kept = index.shape
        tokens = x.double().numpy()
        out, size = np.zeros((2, batch, prefix + length, x.shape[2]))
        arrived = np.zeros((batch, length), bool)
        for sample in range(sets * batch):
            out[sample % batch, :prefix] += tokens[sample, :prefix]
            size[sample % batch, :prefix] += abs(tokens[sample, :prefix])
        for m, b, k, i in entries(index):
            if 0 <= i < length:
                out[b, prefix + i] += tokens[m * batch + b, prefix + k]
                size[b, prefix + i] += abs(tokens[m * batch + b, prefix + k])
                arrived[b, i] = True
        if fill is not None:
            out[:, prefix:][~arrived] = fill.double().numpy()
        if strict:
            for _, b, _, i in entries(index):
                if not 0 <= i < length:
                    out[b] = np.nan
        return out, size

    def summed(x: Tensor, index: Tensor, length: int) -> np.ndarray:
        """Sum over samples, as `collected` does within each."""
        return collected(x.reshape(1, -1, x.shape[2]), index.reshape(1, 1, -1), length, None, 0, False)[0][0]

    def close(got: Tensor, want: np.ndarray, atol: np.ndarray | float = 0.0) -> None:
        """Allow ``atol`` and half a unit in the last place of the result's dtype; want NaN where ``want`` has it."""
        assert got.shape == want.shape
        found = got.double().numpy()
        assert (np.isnan(found) == np.isnan(want)).all()
        error = np.nan_to_num(abs(found - want))
        assert (
            error <= np.nan_to_num(EPS[got.dtype] * abs(want)) + atol + 2.0**-24 * (got.dtype == torch.float16)
        ).all()

    def indices(length: int, sets: int, batch: int, kept: int, integer: torch.dtype = torch.int64) -> Tensor:
        """Draw any indices, some more than once; if K = N, each occurs once."""
        if kept == length:
            return torch.rand(sets, batch, kept).argsort(2).to(integer)
        return torch.randint(0, max(length, 1), (sets, batch, kept)).to(integer)

    # B, N, K, C, M, P
    PROBLEMS = (
        (2, 7, 5, 3, 1, 0),
        (1, 5, 5, 33, 1, 1),
        (3, 4, 9, 1, 2, 0),
        (2, 6, 3, 17, 3, 2),
        (2, 6, 0, 5, 1, 0),
        (2, 6, 0, 5, 2, 1),
        (2, 1, 3, 4, 1, 0),
    )
    problems = pytest.mark.parametrize("problem", PROBLEMS, ids=str)

    # --- gather -----------------------------------------------------------------------------------------------------

    @kinds
    @problems
    def test_gather(problem: tuple[int, ...], dtype: torch.dtype, integer: torch.dtype) -> None:
        batch, length, kept, channels, sets, prefix = problem
        x = torch.randn(batch, prefix + length, channels).to(dtype)
        index = indices(length, sets, batch, kept, integer)
        got = triton.gather(x, index, None, None, prefix, False, dtype)
        assert got.dtype == dtype
        assert np.array_equal(got.double().numpy(), gathered(x, index, None, None, prefix, False))

    @pytest.mark.parametrize("filled", (True, False))
    @pytest.mark.parametrize("by_place", (True, False))
    @dtypes
    def test_gather_adds_positions(dtype: torch.dtype, by_place: bool, filled: bool) -> None:
        """Sums are float32, and the result has another dtype than the tokens."""
        prefix = 2
        x = torch.randn(2, prefix + 6, 17).to(dtype)
        index = torch.randint(0, 9 if filled else 6, (3, 2, 5))
        fill = torch.randn(17) if filled else None
        pos = torch.randn(prefix + 5 if by_place else 6, 17)
        if filled and not by_place:
            index = index.clamp_max(5)
        for out in (dtype, torch.float32):
            got = triton.gather(x, index, fill, pos, prefix, by_place, out)
            assert got.dtype == out
            close(got, gathered(x, index, fill, pos, prefix, by_place), 2.0**-23)

    @integers
    def test_gather_of_wrong_indices(integer: torch.dtype) -> None:
        """A wrong index gives NaN, and so does an index from N on without a fill."""
        x, fill = torch.randn(2, 5, 3), torch.randn(3)
        index = torch.tensor(
            [[[0, -1, 4, 5], [torch.iinfo(integer).max, 3, torch.iinfo(integer).min, 6]]], dtype=integer
        )
        if integer == torch.int64:
            index[0, 0, 0] = 1 << 32  # this is 0 if only 32 bits are read
        for some in (fill, None):
            close(triton.gather(x, index, some, None, 0, False, x.dtype), gathered(x, index, some, None, 0, False))

    def test_gather_from_no_tokens() -> None:
        index, fill = torch.tensor([[[0, 2], [1, -1]]]), torch.randn(3)
        x = torch.empty(2, 0, 3)
        close(triton.gather(x, index, fill, None, 0, False, x.dtype), gathered(x, index, fill, None, 0, False))
        assert triton.gather(x, index, None, None, 0, False, x.dtype).isnan().all()

    def test_gather_leaves_bits() -> None:
        """Infinities, NaN and subnormal numbers go where they are sent and nowhere else, in bfloat16 too."""
        x = torch.randn(1, 6, 5)
        x[0, 1, 2], x[0, 2, 2] = torch.inf, torch.nan
        index = torch.tensor([[[3, 2, 1, 1, 5]]])
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            source = x.to(dtype)
            # The interpreter has no subnormal numbers of bfloat16.
            source[0, 3, 3] = torch.finfo(dtype).smallest_normal / (1 if dtype == torch.bfloat16 else 4)
            got = triton.gather(source, index, None, None, 0, False, dtype)
            torch.testing.assert_close(got, source[:, index[0, 0]], rtol=0, atol=0, equal_nan=True)

    # --- collect ----------------------------------------------------------------------------------------------------

    @both_ways
    @kinds
    @problems
    def test_collect(problem: tuple[int, ...], dtype: torch.dtype, integer: torch.dtype) -> None:
        batch, length, kept, channels, sets, prefix = problem
        x = torch.randn(sets * batch, prefix + kept, channels).to(dtype)
        index = indices(length, sets, batch, kept, integer)
        fill = torch.randn(channels)
        for some, out in ((fill, dtype), (None, torch.float32)):
            got = triton.collect(x, index, length, some, prefix, False, out)
            assert got.dtype == out
            want, size = collected(x, index, length, some, prefix, False)
            close(got, want, 4 * EPS[torch.float32] * size)

    @integers
    @pytest.mark.parametrize("strict", (True, False))
    def test_collect_of_wrong_indices(strict: bool, integer: torch.dtype) -> None:
        """Wrong indices are left out, or if strict give NaN in all rows of their sample, and only there."""
        x, fill = torch.randn(8, 3, 5), torch.randn(5)
        index = indices(6, 2, 4, 3, integer)
        index[0, 0, 1], index[1, 1, 2], index[1, 3, 0] = -1, 6, torch.iinfo(integer).max
        if integer == torch.int64:  # this is 1 if only 32 bits are read
            index[0, 1, 0], index[0, 3, 1] = (1 << 32) + 1, 1 - (1 << 32)
        for some in (fill, None):
            got = triton.collect(x, index, 6, some, 0, strict, x.dtype)
            want, size = collected(x, index, 6, some, 0, strict)
            assert np.isnan(want).any() == strict and not np.isnan(want[2]).any()
            close(got, want, 4 * EPS[torch.float32] * size)

    def test_negative_indices_are_not_the_prefix() -> None:
        x = torch.randn(2, 5, 3)
        index = torch.tensor([[[-1, -2, 0], [1, -2, 2]]])
        close(triton.collect(x, index, 3, None, 2, False, x.dtype), collected(x, index, 3, None, 2, False)[0])

    # M, K, N: all share a few indices, which far more tokens have than a program holds; each set has its own tokens
    # and shares some with others; a set repeats one index; more sets than a program holds.
    @pytest.mark.parametrize(("sets", "kept", "length"), ((3, 11, 3), (3, 5, 9), (1, 9, 40), (7, 2, 3)), ids=str)
    @pytest.mark.parametrize("prefix", (0, 1))
    def test_collect_adds_in_the_order_of_the_index(sets: int, kept: int, length: int, prefix: int) -> None:
        """Tokens that share an index, many blocks apart, give the bits of float32 sums that add one after another."""
        x = torch.randn(2 * sets, prefix + kept, 33)
        index = torch.randint(0, length, (sets, 2, kept))
        want = torch.zeros(2, prefix + length, 33)
        for sample in range(2 * sets):
            want[sample % 2, :prefix] += x[sample, :prefix]
        for m, b, k, i in entries(index):
            want[b, prefix + i] += x[2 * m + b, prefix + k]
        assert torch.equal(triton.collect(x, index, length, None, prefix, False, x.dtype), want)

    def test_collect_keeps_infinities_apart() -> None:
        x = torch.randn(1, 5, 3)
        x[0, 1, 0], x[0, 3, 2] = torch.inf, torch.nan
        for index in (torch.tensor([[[4, 1, 0, 2, 3]]]), torch.tensor([[[4, 1, 1, 2, 4]]])):
            got = triton.collect(x, index, 6, None, 0, False, x.dtype)
            want = collected(x, index, 6, None, 0, False)[0]
            np.testing.assert_allclose(got.double().numpy(), want, rtol=1e-6)

    # --- sums -------------------------------------------------------------------------------------------------------

    @both_ways
    @dtypes
    @pytest.mark.parametrize("length", (0, 1, 7))
    @pytest.mark.parametrize(("samples", "kept", "channels"), ((5, 9, 33), (1, 1, 1), (3, 0, 2)), ids=str)
    def test_sums(samples: int, kept: int, channels: int, length: int, dtype: torch.dtype) -> None:
        """Tokens outside, about a third, are left out."""
        x = torch.randn(samples, kept, channels).to(dtype)
        index = torch.randint(-max(length // 4, 1), length + length // 4 + 1, (1, samples, kept))
        got = triton.sums(x, index, length)
        assert got.dtype == torch.float32
        close(got, summed(x, index, length), 16 * EPS[torch.float32] * max(1, samples * kept))

    # --- strides ----------------------------------------------------------------------------------------------------

    def test_strides() -> None:
        """Samples, rows and channels lie apart or on top of each other, or start oddly; indices are a part of more."""
        room = torch.randn(6, 14, 22)
        sources = (
            room[::3, ::2, 3:8],
            room[:1, :7, :5].expand(2, 7, 5),
            room[:2, :1, :5].expand(2, 7, 5),
            room[:2, :7, 1:11:2],
            room[:2, :5, :7].transpose(1, 2),
        )
        index = torch.rand(2, 9).argsort(1)[:, :7].clamp_max(6)
        for x in sources:
            for cut in (index[None], index[None, :, 2:5], index.T.contiguous().T[None]):
                got = triton.gather(x, cut, None, None, 0, False, x.dtype)
                close(got, gathered(x, cut, None, None, 0, False))
                kept = x[:, : cut.shape[2]]
                want, size = collected(kept, cut, 7, None, 0, False)
                close(triton.collect(kept, cut, 7, None, 0, False, x.dtype), want, 4 * EPS[torch.float32] * size)
                for length in (1, 7):
                    close(triton.sums(kept, cut, length), summed(kept, cut, length), 1e-5)
        rows = room[0, ::2, 3:8], room[1, :1, :5].expand(7, 5), room[2, :7, 1:11:2]
        weights = torch.ones(14)[::2]
        for pred in rows:
            for target in rows:
                value, _ = triton.masked_error(Masked(pred[None], target[None], weights, "none", 0.0), None, False)
                close(value, (pred.double() - target.double()).square().mean().numpy(), 1e-6)

    # --- ranks ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("batch", "length", "keep"), ((3, 21, 5), (2, 16, 16), (1, 1, 1), (2, 9, 0)), ids=str)
    def test_ranks(batch: int, length: int, keep: int) -> None:
        """Equal keys keep their order; infinities and NaN come last."""
        keys = torch.randint(0, 6, (batch, length)).float()
        keys[0, length // 2 :: 2] = torch.nan
        keys[-1, ::5] = torch.inf
        ids_keep, ids_restore, mask = triton.ranks(keys, keep)
        for b in range(batch):
            order = sorted(
                range(length), key=lambda i, b=b: (bool(keys[b, i].isnan()), float(keys[b, i].nan_to_num()), i)
            )
            rank = [order.index(i) for i in range(length)]
            assert ids_keep[b].tolist() == order[:keep]
            assert ids_restore[b].tolist() == rank
            assert mask[b].tolist() == [float(r >= keep) for r in rank]
        assert (ids_keep.dtype, ids_restore.dtype, mask.dtype) == (torch.int64, torch.int64, torch.float32)

    def test_ranks_of_nothing() -> None:
        for shape in ((0, 5), (2, 0)):
            assert [x.shape for x in triton.ranks(torch.empty(shape), 0)] == [(shape[0], 0), shape, shape]

    # --- patches ----------------------------------------------------------------------------------------------------

    @integers
    @pytest.mark.parametrize(
        ("channels", "height", "width", "patch"), ((3, 8, 12, 4), (1, 6, 9, 3), (2, 2, 3, 1)), ids=str
    )
    def test_patches(channels: int, height: int, width: int, patch: int, integer: torch.dtype) -> None:
        """Pixels are in the order of the image; a wrong index leaves NaN."""
        images = torch.randn(2, channels, height, width)
        across = width // patch
        number = height // patch * across
        index = torch.randint(0, number, (2, 5)).to(integer)
        index[0, 1], index[1, 2] = -1, number
        got = triton.patches(images, index, patch)
        for b, k in np.ndindex(2, 5):
            i = int(index[b, k])
            top, left = i // across * patch, i % across * patch
            want = images[b, :, top : top + patch, left : left + patch].flatten()
            assert torch.equal(got[b, k], want) if 0 <= i < number else got[b, k].isnan().all()

    def test_patches_gradient() -> None:
        images = torch.randn(2, 3, 8, 12, requires_grad=True)
        index = torch.tensor([[5, 0, 5], [1, 2, 4]])
        weight = torch.randn(2, 3, 48)
        (SF.patchify_gather(images, index, 4, backend="triton") * weight).sum().backward()
        want = torch.zeros(2, 3, 8, 12)
        for b, k in np.ndindex(2, 3):
            top, left = int(index[b, k]) // 3 * 4, int(index[b, k]) % 3 * 4
            want[b, :, top : top + 4, left : left + 4] += weight[b, k].view(3, 4, 4)
        assert torch.equal(images.grad, want)

    # --- errors -----------------------------------------------------------------------------------------------------

    def dense_errors(pred: Tensor, target: Tensor, norm: str, beta: float) -> Tensor:
        """Compute errors in float64, as the papers' code does."""
        if norm == "mae":
            target = (target - target.mean(1, keepdim=True)) / (target.var(1, keepdim=True) + 1e-6) ** 0.5
        elif norm == "layer":
            target = torch.nn.functional.layer_norm(target, target.shape[1:])
        if beta == 0:
            return (pred - target).square().mean(1)
        return torch.nn.functional.smooth_l1_loss(pred, target, beta=beta, reduction="none").mean(1)

    @pytest.mark.parametrize("beta", (0.0, 0.7))
    @pytest.mark.parametrize("norm", ("none", "mae", "layer"))
    @pytest.mark.parametrize("kinds", ("fp32", "fp16", "mixed"))
    @pytest.mark.parametrize(("n", "channels"), ((9, 33), (5, 2)), ids=str)
    def test_errors(n: int, channels: int, kinds: str, norm: str, beta: float) -> None:
        """Rows that do not count hold NaN; large rows have a mean that would cancel digits in squares."""
        pred_dtype = torch.float16 if kinds == "fp16" else torch.float32
        target_dtype = torch.float32 if kinds == "fp32" else torch.float16
        pred, target = torch.randn(n, channels).to(pred_dtype), torch.randn(n, channels).to(target_dtype)
        target[0] += 1000
        weights = torch.ones(n)
        weights[1::3], weights[2] = 0, 0.5
        pred[1::3] = target[1::3] = torch.nan
        counts = weights != 0
        grad = torch.tensor(-3.0) if n == 9 else None
        share = weights.double() / weights.double().sum().clamp_min(1)
        exact = pred.double().requires_grad_()
        want = (torch.where(counts, dense_errors(exact, target.double(), norm, beta), 0.0) * share).sum()
        masked = Masked(pred[None], target[None], weights[None], norm, beta)
        value, dpred = triton.masked_error(masked, grad, True)
        assert value.dtype == torch.float32 and torch.equal(triton.masked_error(masked, None, False)[0], value)
        rtol = 2e-4 if norm != "none" else 4e-6
        torch.testing.assert_close(value.double(), want.detach(), rtol=rtol, atol=1e-7)
        (gradient,) = torch.autograd.grad(want * (1 if grad is None else -3), exact)
        assert dpred.dtype == pred_dtype and (dpred[0, ~counts] == 0).all()
        atol = max(rtol, EPS[pred_dtype]) * float(gradient[counts].abs().max())
        torch.testing.assert_close(dpred[0, counts].double(), gradient[counts], rtol=EPS[pred_dtype], atol=atol)

    def test_errors_of_no_rows() -> None:
        none = Masked(torch.empty(0, 3, 2), torch.empty(0, 3, 2), torch.empty(0, 3), "mae", 0.0)
        value, dpred = triton.masked_error(none, None, True)
        assert value == 0 and dpred.shape == (0, 3, 2)

    def test_errors_of_a_slice() -> None:
        """Tokens of a sample lie apart from those of the next, and every other one is left out."""
        pred, target, weights = torch.randn(3, 9, 5), torch.randn(3, 6, 5), torch.rand(3, 4)
        apart = Masked(pred[:, 1:8:2], target[:, 2:], weights, "mae", 0.5)
        close = apart._replace(pred=apart.pred.contiguous(), target=apart.target.contiguous())
        pairs = zip(triton.masked_error(apart, None, True), triton.masked_error(close, None, True), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    @pytest.mark.parametrize("beta", (0.0, 0.7))
    def test_nan_in_a_row_that_counts(beta: float) -> None:
        """NaN shows in the gradient of its row, and in no other row."""
        pred, target, weights = torch.randn(1, 3, 5), torch.randn(1, 3, 5), torch.ones(1, 3)
        pred[0, 1, 3] = torch.nan
        value, dpred = triton.masked_error(Masked(pred, target, weights, "mae", beta), None, True)
        assert value.isnan() and torch.equal(dpred.isnan(), pred.isnan())

    def test_constant_target() -> None:
        """A constant target has no deviation, and errors are finite."""
        target = torch.full((1, 2, 5), 3.0)
        for norm in ("mae", "layer"):
            masked = Masked(torch.ones(1, 2, 5), target, torch.ones(1, 2), norm, 0.0)
            torch.testing.assert_close(triton.masked_error(masked, None, False)[0], torch.tensor(1.0))

    # --- the functions ----------------------------------------------------------------------------------------------

    @dtypes
    def test_gather_tokens(dtype: torch.dtype) -> None:
        x, pos = torch.randn(2, 7, 33).to(dtype).requires_grad_(), torch.randn(7, 33).to(dtype).requires_grad_()
        index, weight = torch.randint(0, 7, (2, 9)), torch.randn(2, 9, 33).to(dtype)
        out = SF.gather_tokens(x, index, pos=pos, backend="triton")
        assert out.dtype == dtype
        close(out.detach(), gathered(x.detach(), index[None], None, pos.detach(), 0, False), 2.0**-22)
        (out * weight).sum().backward()
        dx, size = collected(weight, index[None], 7, None, 0, False)
        close(x.grad, dx, 4 * EPS[torch.float32] * size)
        close(pos.grad, summed(weight, index[None], 7), 1e-5)

    @dtypes
    def test_scatter_tokens(dtype: torch.dtype) -> None:
        x, fill = torch.randn(2, 5, 17).to(dtype).requires_grad_(), torch.randn(17, requires_grad=True)
        index, weight = torch.tensor([[0, 6, 2, 2, 5], [1, 1, 1, 0, 3]]), torch.randn(2, 8, 17).to(dtype)
        out = SF.scatter_tokens(x, index, 8, fill=fill, backend="triton")
        want, size = collected(x.detach(), index[None], 8, fill.detach(), 0, True)
        close(out.detach(), want, 4 * EPS[torch.float32] * size)
        (out * weight).sum().backward()
        close(x.grad, gathered(weight, index[None], None, None, 0, False))
        empty = torch.ones(2, 8, dtype=torch.bool).scatter(1, index, False)
        close(fill.grad, weight.double()[empty].sum(0).numpy(), 1e-5)

    @pytest.mark.parametrize("prefix", (0, 1))
    @dtypes
    def test_restore_tokens(dtype: torch.dtype, prefix: int) -> None:
        """MAE's decoder input: two of seven tokens are visible."""
        visible = torch.randn(2, prefix + 2, 33).to(dtype).requires_grad_()
        token, pos = torch.randn(33, requires_grad=True), torch.randn(prefix + 7, 33, requires_grad=True)
        ids_restore = torch.rand(2, 7).argsort(1)
        weight = torch.randn(2, prefix + 7, 33)
        out = SF.restore_tokens(visible, ids_restore, token, pos=pos, prefix=prefix, backend="triton")
        assert out.dtype == torch.float32
        want = gathered(visible.detach(), ids_restore[None], token.detach(), pos.detach(), prefix, True)
        close(out.detach(), want, 2.0**-22)
        (out * weight).sum().backward()
        dx, size = collected(weight, ids_restore[None], 2, None, prefix, False)
        close(visible.grad, dx, 4 * EPS[torch.float32] * size)
        close(token.grad, weight.double()[:, prefix:][ids_restore >= 2].sum(0).numpy(), 1e-5)
        close(pos.grad, weight.double().sum(0).numpy(), 1e-5)

    def test_apply_masks() -> None:
        x = torch.randn(2, 7, 17, requires_grad=True)
        masks = [torch.rand(2, 7).argsort(1)[:, :4] for _ in range(3)]
        weight = torch.randn(6, 4, 17)
        out = SF.apply_masks(x, masks, backend="triton")
        close(out.detach(), gathered(x.detach(), torch.stack(masks), None, None, 0, False))
        (out * weight).sum().backward()
        dx, size = collected(weight, torch.stack(masks), 7, None, 0, False)
        close(x.grad, dx, 4 * EPS[torch.float32] * size)

    @pytest.mark.parametrize("normalize", (True, False))
    def test_masked_losses(normalize: bool) -> None:
        target, mask = torch.randn(2, 5, 33), torch.tensor([[0, 1, 1, 0, 0.5], [0, 0, 0, 1, 0]])
        for loss, norm, beta in ((SF.masked_mse, "mae", 0.0), (SF.masked_smooth_l1, "layer", 1.0)):
            pred = torch.randn(2, 5, 33, requires_grad=True)
            exact = pred.detach().double().requires_grad_()
            got = loss(pred, target, mask, normalize_target=normalize, backend="triton")
            rows = dense_errors(exact.view(10, 33), target.double().view(10, 33), norm if normalize else "none", beta)
            want = (rows * mask.double().flatten()).sum() / 3.5
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
            got.backward()
            want.backward()
            torch.testing.assert_close(pred.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)

    def test_same_inputs_same_bits() -> None:
        x, index = torch.randn(4, 6, 17), torch.randint(0, 5, (2, 2, 6))

        def once() -> list[Tensor]:
            return [
                triton.collect(x, index, 5, None, 0, False, x.dtype),
                triton.sums(x, index, 5),
                triton.sums(x, index, 1),
            ]

        assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))
