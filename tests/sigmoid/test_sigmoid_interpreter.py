# SPDX-License-Identifier: Apache-2.0
"""Check the Triton backend's numbers with Triton's interpreter: this file runs itself again with TRITON_INTERPRET=1.

It tests only float32 and float16, since the interpreter multiplies bfloat16 wrongly. test_triton_compile.py compiles
the same kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import sigmoid_oracle
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
    from similarity_plans import force

    import sslkernels.functional as SF
    from sslkernels.ops.sigmoid import triton

    # float16 rounds weights and gradients.
    CLOSE = {torch.float32: 3e-6, torch.float16: 3e-3}
    SCALE, BIAS = 3.0, -4.0

    @pytest.fixture(params=("tiles", "products"))
    def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """Force a path, with tiles and a workspace so small that small problems cross many; poison new tensors."""
        force(monkeypatch, request.param, 3_000)
        poison_new_tensors(monkeypatch, triton)
        return request.param

    def assert_near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
        size = float(wanted.abs().max()) if wanted.numel() else 0.0
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=CLOSE[dtype] * size)

    def rows(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape).div(shape[-1] ** 0.5).to(dtype).requires_grad_()

    def numbers() -> tuple[Tensor, Tensor]:
        return torch.tensor(SCALE, requires_grad=True), torch.tensor([BIAS], requires_grad=True)

    def check_sums(n: int, m: int | None, d: int, dtype: torch.dtype, size: float = 1.0) -> None:
        """Compare sums and every gradient with the oracle's; weights of rows have that size."""
        x, y = rows(n, d, dtype=dtype), None if m is None else rows(m, d, dtype=dtype)
        scale, bias = numbers()
        weights = size * torch.randn(n)
        exact = sigmoid_oracle.exact(x, x if y is None else y, SCALE, BIAS, weights)
        sums = SF.softplus_similarity(x, y, scale, bias, backend="triton")
        assert_near(sums.detach(), exact.sums, torch.float32)
        leaves = [x, scale, bias, *([] if y is None else [y])]
        dx, dscale, dbias, *dy = torch.autograd.grad(sums, leaves, weights)
        assert_near(dx / size, (exact.dx if dy else exact.dx + exact.dy) / size, dtype)
        for found in dy:
            assert_near(found / size, exact.dy / size, dtype)
        assert abs(float(dscale) / size - float(exact.dscale) / size) <= 1e-5 * n
        assert abs(float(dbias) / size - float(exact.dbias) / size) <= 1e-5 * n

    def check_loss(n: int, d: int, dtype: torch.dtype) -> None:
        x, y, (scale, bias) = rows(n, d, dtype=dtype), rows(n, d, dtype=dtype), numbers()
        given = torch.full((n,), 1 / n)
        exact = sigmoid_oracle.exact(x, y, SCALE, BIAS, given, paired=True)
        value = SF.siglip_loss(x, y, scale, bias, backend="triton")
        torch.testing.assert_close(value.double(), exact.sums.mean(), rtol=2e-6, atol=0)
        with torch.no_grad():
            assert torch.equal(SF.siglip_loss(x, y, scale, bias, backend="triton"), value)
        dx, dy, dscale, dbias = torch.autograd.grad(value, (x, y, scale, bias), retain_graph=True)
        assert_near(dx, exact.dx, dtype)
        assert_near(dy, exact.dy, dtype)
        assert abs(float(dscale) - float(exact.dscale)) < 1e-5 and abs(float(dbias) - float(exact.dbias)) < 1e-5
        value = SF.siglip_loss(x.detach(), y, scale, bias.detach(), backend="triton")
        assert all(map(torch.equal, torch.autograd.grad(value, (y, scale)), (dy, dscale)))

    @pytest.mark.parametrize("dtype", CLOSE, ids=str)
    def test_pairs(path: str, dtype: torch.dtype) -> None:
        check_sums(17, 34, 33, dtype)
        check_sums(20, None, 5, dtype)
        check_loss(35, 19, dtype)

    def test_small_weights_survive_float16(path: str) -> None:
        check_sums(17, 18, 5, torch.float16, 1e-5)

    def test_a_number_that_is_none_stays_none(path: str) -> None:
        x, y = torch.randn(18, 3), torch.randn(17, 3)
        x[3, 0], y[16, 1] = torch.nan, torch.inf
        sums = SF.softplus_similarity(x, y, backend="triton")
        torch.testing.assert_close(sums, SF.softplus_similarity(x, y, backend="reference"), equal_nan=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", CLOSE, ids=str)
    @pytest.mark.parametrize(("n", "m", "d"), ((1, 1, 1), (2, 3, 1), (17, 31, 33), (33, 70, 3), (3, 0, 2), (0, 3, 2)))
    def test_sweep(path: str, n: int, m: int, d: int, dtype: torch.dtype) -> None:
        check_sums(n, m, d, dtype)
        if n:
            check_sums(n, None, d, dtype)
            check_loss(n, d, dtype)
