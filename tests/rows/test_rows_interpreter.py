# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests only float32 and float16, since the interpreter computes bfloat16 wrongly. test_triton_compile.py compiles the
same kernels.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    import rows_oracle

    import sslkernels.functional as SF
    from sslkernels.ops.rows import row_dot, unit_rows
    from sslkernels.ops.rows.cosine import row_cosine

    EPS = 2.0**-23

    @pytest.fixture(autouse=True)
    def poison(monkeypatch: pytest.MonkeyPatch) -> None:
        poison_new_tensors(monkeypatch)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(("n", "d"), ((1, 1), (5, 3), (9, 33), (2, 2500)), ids=str)
    def test_unit_rows(n: int, d: int, dtype: torch.dtype) -> None:
        parts = [z.to(dtype).requires_grad_() for z in (torch.randn(n, d), torch.randn(n + 1, 2 * d)[:, ::2])]
        unit = unit_rows(*parts, backend="triton")
        exact = [part.detach().double().requires_grad_() for part in parts]
        want = F.normalize(torch.cat(exact), dim=1, eps=1e-12)
        eps = 2.0**-10 if dtype == torch.float16 else 8 * EPS
        torch.testing.assert_close(unit.double(), want, rtol=eps, atol=2.0**-24 if dtype == torch.float16 else 0)
        grad = torch.randn(unit.shape).to(dtype)
        unit.backward(grad)
        want.backward(grad.double())
        for part, wide in zip(parts, exact, strict=True):
            shortest = float(torch.cat(exact).detach().norm(dim=1).min())
            error = 4 * eps * float(grad.abs().max()) * d**0.5 / shortest
            torch.testing.assert_close(part.grad.double(), wide.grad, rtol=4 * eps, atol=error)

    def test_unit_rows_at_the_ends_of_float32() -> None:
        """A norm below 1e-12 counts as 1e-12; a norm stays right even if squares leave the range of float32."""
        z = torch.tensor([[0.0, 0.0], [1e-25, 0.0], [3e-13, 4e-13], [3e15, 4e15], [1e25, 1e25], [torch.nan, 1.0]])
        leaf = z.clone().requires_grad_()
        unit = unit_rows(leaf, backend="triton")
        want = torch.tensor(
            [[0.0, 0.0], [1e-13, 0.0], [0.3, 0.4], [0.6, 0.8], [0.5**0.5, 0.5**0.5], [torch.nan, torch.nan]]
        )
        torch.testing.assert_close(unit, want, equal_nan=True)
        unit[:5].sum().backward()
        torch.testing.assert_close(leaf.grad[:3], torch.full((3, 2), 1e12))

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(("n", "m", "d", "shift"), ((1, 1, 1, 0), (5, 5, 3, 2), (4, 9, 33, 7), (6, 6, 2500, -1)))
    def test_row_dot(n: int, m: int, d: int, shift: int, dtype: torch.dtype) -> None:
        for itself in (False, True):
            x = torch.randn(n, d).to(dtype).requires_grad_()
            y = None if itself else torch.randn(m, d).to(dtype).requires_grad_()
            got = row_dot(x, y, shift=shift, backend="triton")
            wide_x = x.detach().double().requires_grad_()
            wide_y = wide_x if itself else y.detach().double().requires_grad_()
            want = (wide_x * wide_y.roll(-shift, 0)[:n]).sum(1)
            torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-5 * d**0.5)
            grad = torch.randn(n)
            got.backward(grad)
            want.backward(grad.double())
            for narrow, wide in [(x, wide_x)] if itself else [(x, wide_x), (y, wide_y)]:
                relative = 2e-3 if dtype == torch.float16 else 1e-6
                torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=relative, atol=1e-6)

    @pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
    @pytest.mark.parametrize(("n", "d"), ((1, 1), (5, 3), (9, 33), (70, 17), (2, 2500)), ids=str)
    @pytest.mark.parametrize("frozen", (None, 0, 1))
    def test_row_cosine(n: int, d: int, dtype: torch.dtype, frozen: int | None) -> None:
        sides = [z.to(dtype).requires_grad_() for z in (torch.randn(n, d), torch.randn(n, 2 * d)[:, ::2])]
        wide = [side.detach().double().requires_grad_() for side in sides]
        if frozen is not None:
            sides[frozen].requires_grad_(False)
        want = rows_oracle.cosine(*wide, 0.5)
        got = row_cosine(*sides, 0.5, backend="triton")
        torch.testing.assert_close(got.double(), want, rtol=0, atol=16 * EPS)
        for grad in (torch.randn(n), torch.ones(1).expand(n)):
            found = torch.autograd.grad(got, [s for s in sides if s.requires_grad], grad, retain_graph=True)
            slopes = torch.autograd.grad(want, wide, grad.double(), retain_graph=True)
            if frozen is not None:
                slopes = (slopes[1 - frozen],)
            for gradient, slope in zip(found, slopes, strict=True):
                relative = 2.0**-10 if dtype == torch.float16 else 16 * EPS
                torch.testing.assert_close(gradient.double(), slope, rtol=relative, atol=64 * EPS)

    @pytest.mark.parametrize("frozen", (None, 0, 1))
    @pytest.mark.parametrize(("n", "d"), ((1, 1), (9, 33), (70, 17)), ids=str)
    def test_cosine_loss(n: int, d: int, frozen: int | None) -> None:
        sides = [z.requires_grad_() for z in (torch.randn(n, d), torch.randn(n, 2 * d)[:, ::2])]
        wide = [side.detach().double().requires_grad_() for side in sides]
        if frozen is not None:
            sides[frozen].requires_grad_(False)
        for reduction, share in (("mean", 1 / n), ("sum", 1)):
            got = SF.byol_loss(*sides, reduction=reduction, backend="triton")
            want = share * (2 - 2 * rows_oracle.cosine(*wide, 1e-12)).sum()
            torch.testing.assert_close(got.double(), want, rtol=0, atol=64 * EPS * n * share)
            found = iter(torch.autograd.grad(got, [side for side in sides if side.requires_grad]))
            for side, slope in zip(sides, torch.autograd.grad(want, wide), strict=True):
                if side.requires_grad:
                    allowed = 64 * EPS * share / side.detach().double().norm(dim=1, keepdim=True)
                    assert ((next(found).double() - slope).abs() <= allowed).all()

    def test_row_cosine_at_the_ends_of_float32() -> None:
        """Rows are zeros, or of any two sizes, or hold NaN, which stays in its row."""
        sizes = torch.tensor([0, 1e-25, 1e-18, 1, 1e18, 1e25])
        x = (torch.randn(36, 5) * sizes.repeat_interleave(6)[:, None]).requires_grad_()
        y = (torch.randn(36, 5) * sizes.repeat(6)[:, None]).requires_grad_()
        for eps in (1e-30, 1e-8):
            got = row_cosine(x, y, eps, backend="triton")
            want = rows_oracle.cosine(x, y, eps)
            torch.testing.assert_close(got.double(), want, rtol=0, atol=16 * EPS)
            found = torch.autograd.grad(got.sum(), (x, y))
            for gradient, slope, side in zip(found, torch.autograd.grad(want.sum(), (x, y)), (x, y), strict=True):
                norms = side.detach().double().norm(dim=1, keepdim=True).clamp_min(eps)
                assert ((gradient.double() - slope.double()).abs() <= 32 * EPS / norms).all()
        x = torch.randn(9, 5)
        x[4, 2] = torch.nan
        assert row_cosine(x, torch.randn(9, 5), 1e-8, backend="triton").isnan().nonzero().flatten().tolist() == [4]
