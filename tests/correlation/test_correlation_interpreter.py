# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

The interpreter multiplies bfloat16 wrongly. So bfloat16 is tested only in whole losses, which leave its products to
cuBLAS (here to PyTorch). test_triton_compile.py compiles the same kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, poison_new_tensors, run_interpreted
from torch import Tensor

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

    @pytest.mark.slow
    def test_interpreted_sweep(tmp_path: Path) -> None:
        run_interpreted(__file__, "slow", tmp_path)

else:
    import test_correlation_scales as scales

    import sslkernels.functional as SF
    from sslkernels.ops.correlation import triton, triton_loss, triton_steps
    from sslkernels.ops.correlation.schema import Coefficients, Columns, Products
    from sslkernels.ops.correlation.triton_steps import Blocks
    from sslkernels.ops.triton_launch import Area, Tile

    EPS = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
    SIDES = ("samples", "features")
    DTYPES = (torch.float32, torch.float16)
    EVERY_DTYPE = (*DTYPES, torch.bfloat16)
    # With one processor, one program does everything; with 2^20, every sum has as many parts as there are blocks.
    IDLE, BUSY = 1, 1 << 20

    both_ways = pytest.mark.parametrize("small_blocks", (IDLE, BUSY), ids=("whole", "split"), indirect=True)

    @pytest.fixture(autouse=True)
    def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make blocks so small that small problems cross many; poison new tensors."""
        blocks = Blocks(32, 32, 32, 4, 1), Blocks(16, 32, 32, 4, 1)
        monkeypatch.setattr(triton_steps, "TABLE", dict.fromkeys(triton_steps.TABLE, blocks))
        monkeypatch.setattr(triton_steps, "SHORTEST_PART", 32)
        monkeypatch.setattr(triton_steps, "MOMENTS", Tile(16, 64, 4))
        monkeypatch.setattr(triton, "SAMPLE_ENERGIES", Area(256, 4))
        monkeypatch.setattr(triton, "FEATURE_ENERGIES", Tile(32, 64, 4))
        monkeypatch.setattr(triton_loss, "COLUMNS", 16)
        monkeypatch.setattr(triton_loss, "STANDARDISE", Tile(16, 32, 4))
        monkeypatch.setattr(triton_loss, "ENERGIES", Tile(32, 32, 4))
        monkeypatch.setattr(triton_loss, "SLOPES", Tile(16, 32, 4))
        monkeypatch.setattr(triton_loss, "SUMS", 32)
        monkeypatch.setattr(triton_loss, "GRADIENTS", Area(256, 4))
        for module in (triton_steps, triton_loss):
            monkeypatch.setattr(module, "processors", lambda _: getattr(request, "param", BUSY))
        poison_new_tensors(monkeypatch, triton_loss)

    # --- the losses in float64, as their papers' code has them ------------------------------------------------------

    def off_diagonal(c: Tensor) -> Tensor:
        return c - torch.diag(c.diagonal())

    def barlow_twins(z0: Tensor, z1: Tensor, lambd: float, eps: float = 1e-5) -> Tensor:
        a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt() for z in (z0, z1))
        c = a.T @ b / len(z0)
        return (c.diagonal() - 1).pow(2).sum() + lambd * off_diagonal(c).pow(2).sum()

    def vicreg(x: Tensor, y: Tensor) -> Tensor:
        n, d = x.shape
        repr_loss = (x - y).pow(2).mean()
        x, y = x - x.mean(0), y - y.mean(0)
        std_loss = sum((1 - (z.var(0) + 1e-4).sqrt()).relu().mean() for z in (x, y)) / 2
        cov_loss = sum(off_diagonal(z.T @ z / (n - 1)).pow(2).sum() / d for z in (x, y))
        return 25 * repr_loss + 25 * std_loss + cov_loss

    def sizes(z0: Tensor, z1: Tensor, loss: str, lambd: float) -> list[Tensor]:
        """Sum the absolute terms of a gradient for each view and column, because rounding is relative to these sums."""
        n, d = z0.shape
        centred = [z - z.mean(0) for z in (z0, z1)]
        found = []
        for view in (0, 1):
            z, other = centred[view], centred[1 - view]
            if loss == "barlow_twins":
                scale, far = ((x.var(0, correction=0) + 1e-5).rsqrt() for x in (z, other))
                a, b = z * scale, other * far
                da = 2 * lambd / n**2 * ((b @ b.T).abs() @ a.abs() + d**0.5 * a.abs() + b.abs() * (a * b).sum(0).abs())
                da = da + 2 / n * b.abs() * (1 + (a * b).mean(0).abs())
                s = (da * a.abs()).sum(0) / n
                found.append((scale * (da + s * a.abs())).amax(0))
            else:
                pull = 50 / (n * d) * (z0 - z1).abs()
                push = 12.5 / ((n - 1) * d) * z.abs() / (z.var(0) + 1e-4).sqrt()
                apart = 4 / (n - 1) ** 2 / d * ((z @ z.T).abs() @ z.abs() + z.abs() * z.square().sum(0))
                found.append((pull + push + apart).amax(0))
        return found

    def rows_of(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Make two similar views, whose columns have unlike means and deviations."""
        shared = torch.randn(n, d)
        spread, mean = torch.rand(d) + 0.2, torch.randn(d)
        return tuple(((shared + 0.5 * torch.randn(n, d)) * spread + mean).to(dtype) for _ in range(2))

    def check(loss: str, side: str, z0: Tensor, z1: Tensor, lambd: float = 0.05, scale: float = 1.0) -> None:
        """Compare the value and both gradients; a loss scaler multiplies by ``scale``."""
        leaves = [z.clone().requires_grad_() for z in (z0, z1)]
        exact = [z.double().requires_grad_() for z in (z0, z1)]
        if loss == "barlow_twins":
            got, want = SF.barlow_twins(*leaves, lambd=lambd, side=side, backend="triton"), barlow_twins(*exact, lambd)
        else:
            got, want = SF.vicreg(*leaves, side=side, backend="triton"), vicreg(*exact)
        assert got.dtype == torch.float32
        eps = EPS[z0.dtype]
        assert abs(float(got) - float(want)) <= 16 * eps * max(float(want), len(z0[0]) ** 0.5 * lambd)
        (got * scale).backward()
        (want * scale).backward()
        for view, size in enumerate(sizes(*(z.detach() for z in exact), loss, lambd)):
            error = (leaves[view].grad.double() - exact[view].grad).abs().amax(0)
            assert leaves[view].grad.dtype == z0.dtype
            bound = scale * 8 * eps * size + 2.0**-24 * (z0.dtype == torch.float16)
            assert (error <= bound).all(), f"view {view}: off by {(error / bound).max():.1f} times its bound"

    @pytest.mark.parametrize("dtype", EVERY_DTYPE)
    @pytest.mark.parametrize(("n", "d"), ((2, 5), (7, 33), (33, 1), (40, 35)), ids=str)
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("loss", ("barlow_twins", "vicreg"))
    def test_loss(loss: str, side: str, n: int, d: int, dtype: torch.dtype) -> None:
        check(loss, side, *rows_of(n, d, dtype))

    @pytest.mark.slow
    @pytest.mark.share(4)
    @both_ways
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("d", (1, 5, 33, 64, 130))
    @pytest.mark.parametrize("n", (2, 7, 33, 70))
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("loss", ("barlow_twins", "vicreg"))
    def test_every_size(loss: str, side: str, n: int, d: int, dtype: torch.dtype) -> None:
        check(loss, side, *rows_of(n, d, dtype))

    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("loss", ("barlow_twins", "vicreg"))
    def test_constant_column_and_large_mean(loss: str, side: str) -> None:
        """A column without variance gets finite gradients; means of 1000 cost it nothing."""
        z0, z1 = rows_of(17, 20, torch.float32)
        z0[:, 3] = z1[:, 3] = 2.0
        check(loss, side, z0, z1)
        far = [(z + 1000).detach() for z in rows_of(17, 20, torch.float32)]
        near = [(z.double() - 1000).float() for z in far]  # exact: both lie within a factor of two
        leaves = [[z.clone().requires_grad_() for z in views] for views in (far, near)]
        losses = [getattr(SF, loss)(*views, side=side, backend="triton") for views in leaves]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
        for value in losses:
            value.backward()
        for there, here in zip(*leaves, strict=True):
            torch.testing.assert_close(there.grad, here.grad, rtol=0, atol=1e-5 * float(here.grad.abs().max()))

    @pytest.mark.parametrize("side", SIDES)
    def test_half_precision_beyond_its_range(side: str) -> None:
        """Entries of K and C are some 10^6, or 10^-6, while float16 ends at 65504 and at 6e-8."""
        z0, z1 = rows_of(17, 40, torch.float32)
        check("vicreg", side, (300 * z0).half(), (300 * z1).half(), scale=2.0**-6)
        check("vicreg", side, (1e-3 * z0).half(), (1e-3 * z1).half(), scale=1024.0)
        check("barlow_twins", side, (1e-2 * z0).half(), (1e-2 * z1).half(), scale=128.0)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("side", SIDES)
    def test_uncentred(side: str, dtype: torch.dtype) -> None:
        leaves = [z.requires_grad_() for z in rows_of(17, 33, dtype)]
        exact = [z.detach().double().requires_grad_() for z in leaves]
        diagonal, total = SF.cross_correlation_sq(*leaves, side=side, backend="triton")
        c = exact[0].T @ exact[1]
        weight = torch.randn(33)
        torch.testing.assert_close(diagonal.double(), c.diagonal(), rtol=0, atol=16 * EPS[dtype] * float(c.abs().max()))
        torch.testing.assert_close(total.double(), c.square().sum(), rtol=8 * EPS[dtype], atol=0)
        ((diagonal @ weight + total) / 1000).backward()
        ((c.diagonal() @ weight.double() + c.square().sum()) / 1000).backward()
        for leaf, wide in zip(leaves, exact, strict=True):
            atol = 8 * EPS[dtype] * float(wide.grad.abs().max())
            torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=0, atol=atol)

    @pytest.mark.parametrize("side", SIDES)
    def test_single_view(side: str) -> None:
        z, _ = rows_of(17, 33, torch.float32)
        for loss in (SF.covariance_penalty, SF.variance_hinge):
            options: dict[str, Any] = {"side": side} if loss is SF.covariance_penalty else {}
            leaf, wide = z.clone().requires_grad_(), z.double().requires_grad_()
            got = loss(leaf, **options, backend="triton")
            covariance = wide.T.cov()
            if options:
                want = off_diagonal(covariance).square().sum() / 33
            else:
                want = (1 - (covariance.diagonal() + 1e-4).sqrt()).relu().mean()
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)
            got.backward()
            want.backward()
            torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=1e-4, atol=1e-7)

    @pytest.mark.parametrize("needs", (0, 1))
    @pytest.mark.parametrize("side", SIDES)
    def test_only_one_gradient(side: str, needs: int) -> None:
        for loss in (SF.barlow_twins, SF.vicreg):
            both = [z.requires_grad_() for z in rows_of(5, 20, torch.float32)]
            loss(*both, side=side, backend="triton").backward()
            one = [z.detach().clone() for z in both]
            one[needs].requires_grad_()
            loss(*one, side=side, backend="triton").backward()
            assert torch.equal(one[needs].grad, both[needs].grad) and one[1 - needs].grad is None

    @pytest.mark.parametrize("side", SIDES)
    def test_autocast(side: str) -> None:
        """Columns of float32 rows are multiplied in float16, and gradients come back in float32."""
        exact = [z.double().requires_grad_() for z in rows_of(17, 35, torch.float32)]
        leaves = [z.detach().float().requires_grad_() for z in exact]
        with torch.autocast("cpu", torch.float16):
            loss = SF.barlow_twins(*leaves, lambd=0.05, side=side, backend="triton")
        loss.backward()
        want = barlow_twins(*exact, 0.05)
        want.backward()
        torch.testing.assert_close(loss.double(), want, rtol=1e-2, atol=0)
        for view, size in enumerate(sizes(*(z.detach() for z in exact), "barlow_twins", 0.05)):
            assert leaves[view].grad.dtype == torch.float32
            error = (leaves[view].grad.double() - exact[view].grad).abs().amax(0)
            assert (error <= 8 * EPS[torch.float16] * size).all() and (error > 0).any()

    def test_strides() -> None:
        """Rows lie apart or on top of each other, features lie apart, or the start is odd."""
        wide = torch.randn(40, 12)
        apart, on_top, features_apart = wide[::2, :5], wide[:1, :5].expand(20, 5), wide[:20, ::2]
        odd = wide.flatten()[3:203].view(20, 10)
        for x, y in ((apart, on_top), (on_top, apart), (features_apart, odd[:, :6]), (odd, odd.flip(1))):
            for side in SIDES:
                got, plain = ([z.detach().requires_grad_() for z in (x, y)] for _ in range(2))
                SF.vicreg(*got, side=side, backend="triton").backward()
                SF.vicreg(*(z.contiguous() for z in plain), side=side, backend="reference").backward()
                for a, b in zip(got, plain, strict=True):
                    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)

    def test_nan_rows_give_nan() -> None:
        z0, z1 = rows_of(17, 5, torch.float32)
        z0[3, 2] = torch.nan
        for side in SIDES:
            assert SF.vicreg(z0, z1, side=side, backend="triton").isnan()
            assert SF.barlow_twins(z0, z1, side=side, backend="triton").isnan()

    def test_same_inputs_same_bits() -> None:
        def once(side: str) -> list[Tensor]:
            torch.manual_seed(7)
            leaves = [z.requires_grad_() for z in rows_of(33, 35, torch.float32)]
            loss = SF.barlow_twins(*leaves, side=side, backend="triton")
            loss.backward()
            return [loss, *(z.grad for z in leaves)]

        for side in SIDES:
            assert all(torch.equal(a, b) for a, b in zip(once(side), once(side), strict=True))

    @pytest.mark.parametrize("side", SIDES)
    def test_every_scale(side: str) -> None:
        """This backend passes the same test as others; test_correlation_scales.py describes it."""
        for loss in scales.LOSSES:
            for power in (-30, 9, 30):
                scales.assert_agree(loss, side, "triton", *scales.views(12, 7, 10.0**power))
        scales.test_columns_of_unlike_scale("triton", "barlow_twins eps=0", side)
        scales.test_large_common_mean("triton", "vibcreg", side)
        scales.test_a_small_column_beside_a_large_one_keeps_its_gradient("triton", side)
        scales.test_a_zero_weight_silences_what_overflows("triton")
        for loss in ("vicreg", "cross_correlation_sq"):
            scales.test_half_precision_at_both_ends_of_its_range("triton", loss, torch.float16, side)
        for entry in (torch.inf, torch.nan):
            for loss in ("vicreg", "barlow_twins", "vibcreg", "frossl"):
                scales.test_an_entry_that_is_not_finite("triton", loss, entry, side)

    # --- what losses on one rank do not reach -----------------------------------------------------------------------

    @both_ways
    @pytest.mark.parametrize("centre", (True, False))
    @pytest.mark.parametrize(("n", "d"), ((1, 3), (16, 1), (100, 70)), ids=str)
    def test_moments(n: int, d: int, centre: bool) -> None:
        """Columns have a deviation of 1 about a mean of 1000, or of 1000 about a mean of 1."""
        z0, z1 = torch.randn(n, d) + 1000, 1000 * torch.randn(n, d) + 1
        wide0, wide1 = z0.double(), z1.double()
        mean, squares, products, gap = triton.moments(z0, z1, centre)
        for view, z in enumerate((wide0, wide1)):
            about = z.mean(0) if centre else torch.zeros(d, dtype=torch.float64)
            scale = float(z.abs().max())
            torch.testing.assert_close(mean[view, 0].double(), about, rtol=0, atol=2e-7 * scale)
            spread = float((z - about).abs().max()) if centre else 0
            torch.testing.assert_close(mean[view].double().sum(0), about, rtol=0, atol=3e-7 * spread)
            want = (z - about).square().sum(0)
            torch.testing.assert_close(squares[view].double(), want, rtol=1e-5, atol=1e-6 * n)
        a, b = (z - z.mean(0) if centre else z for z in (wide0, wide1))
        atol = 1e-5 * float((a.square().sum(0) * b.square().sum(0)).sqrt().max())
        torch.testing.assert_close(products.double(), (a * b).sum(0), rtol=0, atol=atol + 1e-6)
        torch.testing.assert_close(gap.double(), (wide0 - wide1).square().sum(), rtol=1e-5, atol=0)
        alone = triton.moments(z1, None, centre)
        assert torch.equal(alone[0][0], mean[1]) and torch.equal(alone[1][0], squares[1])
        assert alone[2].shape == (0,) and float(alone[3]) == 0

    def test_moments_of_no_rows() -> None:
        for x in triton.moments(torch.empty(0, 3), torch.empty(0, 3), True):
            assert (x == 0).all()

    @pytest.mark.parametrize(("first", "count"), ((0, 5), (5, 33), (3, 0)), ids=str)
    def test_some_rows_of_all(first: int, count: int) -> None:
        """A rank multiplies its own rows with those of all ranks; all are standardised already."""
        a, b = rows_of(40, 35, torch.float32)
        mine = slice(first, first + count)
        wide = [a.double(), b.double()]
        columns = Columns(a, b, None, None)
        k = triton.matrix(columns, Products(True, "samples", torch.float32, first, count))
        for view in (0, 1):
            want = wide[view][mine] @ wide[view].T
            torch.testing.assert_close(k[view].double(), want, rtol=1e-5, atol=1e-4)
        energy = triton.energies(k, k, True, "samples")
        assert energy.dtype == torch.float64 and energy.shape == (1, 1)
        torch.testing.assert_close(energy[0, 0], (k[0].double() * k[1].double()).sum(), rtol=1e-5, atol=1e-6)
        each = triton.energies(k, k, False, "samples")
        torch.testing.assert_close(each[:, 0], k.double().square().sum((1, 2)), rtol=1e-5, atol=0)
        for cross in (True, False):
            products = Products(cross, "samples", torch.float32, first, count)
            got = triton.backward(columns, k, products, Coefficients(*[None] * 5), True, True, torch.float32)
            for view in (0, 1):
                matrix = wide[1 - view if cross else view]
                want = (matrix[mine] @ matrix.T) @ wide[view]
                assert got[view].dtype == torch.float32
                atol = 4 * EPS[torch.float32] * float(want.abs().max()) if count else 0
                torch.testing.assert_close(got[view].double(), want, rtol=0, atol=atol)

    @pytest.mark.parametrize("d", (1, 33, 70))
    def test_feature_energies_of_two_matrices(d: int) -> None:
        """The matrix of one rank's rows is multiplied with that of all ranks, which is not symmetric."""
        all_ranks, mine = torch.randn(2, d, d), torch.randn(2, d, d)
        products = (all_ranks * mine).double()
        products.diagonal(dim1=1, dim2=2).zero_()
        each = triton.energies(all_ranks, mine, False, "features")
        torch.testing.assert_close(each.double(), products.sum(2), rtol=0, atol=1e-5)
        cross = triton.energies(all_ranks[:1], mine[:1], True, "features")
        want = torch.stack([products[0].sum(1), products[0].sum(0)])
        torch.testing.assert_close(cross.double(), want, rtol=0, atol=1e-5)

    def test_tiles_of_the_triangle() -> None:
        """Symmetric products run each tile of the lower triangle once, and every entry is written."""
        z = torch.randn(130, 5)
        products = Products(False, "samples", torch.float32, 0, 130)
        k = triton.matrix(Columns(z, None, None, None), products)[0]
        torch.testing.assert_close(k, z @ z.T)
        assert torch.equal(k[:32, 64:], k[64:, :32].T)
