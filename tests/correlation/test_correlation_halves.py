# SPDX-License-Identifier: Apache-2.0
"""Test the Triton backend's 16-bit products where rounding could do harm, against float64.

Columns are rounded once, and all products of them run in 16 bits. The error must stay that of one rounding, also where
views, or columns, are nearly alike, means are large, variances tiny, or there are two rows or one column. The file runs
itself again under Triton's interpreter. Products are PyTorch's there, and `to_nearest` rounds as a GPU does, so that
bfloat16 is right too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, run_interpreted
from torch import Tensor

if not INTERPRETED:

    @pytest.mark.slow
    def test_interpreted(tmp_path: Path) -> None:
        run_interpreted(__file__, "not slow and not gpu", tmp_path)

else:
    import correlation_oracle
    import triton.language as tl
    from triton.runtime import interpreter

    import sslkernels.functional as SF
    from sslkernels.ops.correlation import triton_loss

    N, D = 24, 40

    @pytest.fixture(autouse=True)
    def to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the interpreter round float32 to the nearest bfloat16; left alone, it cuts digits off."""
        convert = interpreter._convert_float

        def rounded(data: Any, come: Any, to: Any, mode: Any) -> Any:
            if to != tl.bfloat16:
                return convert(data, come, to, mode)
            return torch.tensor(data).bfloat16().view(torch.uint16).numpy()

        monkeypatch.setattr(interpreter, "_convert_float", rounded)

    def similar(n: int, d: int) -> tuple[Tensor, Tensor]:
        shared = torch.randn(n, d)
        return shared, shared + 0.5 * torch.randn(n, d)

    def wide(n: int, d: int) -> Tensor:
        return torch.randn(n, d) * torch.cat([torch.tensor([30.0]), torch.ones(d - 1)])

    def constant(n: int, d: int, largest: float) -> tuple[Tensor, Tensor]:
        z0, z1 = similar(n, d)
        z0[:, ::3], z1[:, ::5] = 0.1, largest
        return z0, z1

    def alike(n: int, d: int) -> tuple[Tensor, Tensor]:
        z, _ = similar(n, d)
        return z, z * (1 + 0.01 * torch.randn(n, d))

    def correlated(n: int, d: int) -> tuple[Tensor, Tensor]:
        return tuple(z + 3 * torch.randn(n, 1) for z in similar(n, d))

    def decorrelated(n: int, d: int) -> tuple[Tensor, Tensor]:
        columns = torch.linalg.qr(torch.randn(n, n)).Q[:, : d // 2] * n**0.5
        return columns + 0.01 * torch.randn_like(columns), columns + 0.01 * torch.randn_like(columns)

    CASES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "usual": lambda: similar(N, D),
        "views nearly alike": lambda: alike(N, D),
        "views the same": lambda: (similar(N, D)[0],) * 2,
        "columns alike": lambda: correlated(N, D),
        "tiny variance": lambda: tuple(1e-3 * z for z in similar(N, D)),
        "large mean": lambda: tuple(z + 30 for z in similar(N, D)),
        "larger mean": lambda: tuple(z + 300 for z in similar(N, D)),
        "one wide column": lambda: (wide(N, D), wide(N, D)),
        "constant columns": lambda: constant(N, D, 2.0),
        "constant columns of a large mean": lambda: constant(N, D, 300.0),
        "two rows": lambda: similar(2, D),
        "one column": lambda: similar(N, 1),
        "more rows": lambda: similar(3 * N, D),
        "decorrelated": lambda: decorrelated(N, D),
    }

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
    @pytest.mark.parametrize("loss", ("barlow_twins", "vicreg"))
    @pytest.mark.parametrize("case", CASES)
    def test_one_rounding(case: str, loss: str, dtype: torch.dtype) -> None:
        """The side of samples; gradients that vanish, as with two rows, are bounded absolutely."""
        rows = [z.to(dtype) for z in CASES[case]()]
        leaves, exact = [z.clone().requires_grad_() for z in rows], [z.double().requires_grad_() for z in rows]
        value = getattr(SF, loss)(*leaves, side="samples", backend="triton")
        wanted = getattr(correlation_oracle, loss)(*exact)
        eps = torch.finfo(dtype).eps
        error, allowed = abs(value.item() - wanted.item()), eps * (0.1 + abs(wanted.item()))
        assert error <= allowed
        slopes = torch.autograd.grad(wanted, exact)
        for gradient, slope in zip(torch.autograd.grad(value, leaves), slopes, strict=True):
            error, allowed = (gradient.double() - slope).norm(), eps * (slope.norm() + 1e-3 * len(slope) ** 0.5)
            assert error <= allowed

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
    def test_a_wide_column_hides_nothing(dtype: torch.dtype) -> None:
        """The total is a hundred times what is left once its diagonal is taken off.

        The wide column's gradient is what K times the column leaves beside the column's square times itself.
        """
        z = wide(64, 128).to(dtype)
        leaf, exact = z.clone().requires_grad_(), z.double().requires_grad_()
        value = SF.covariance_penalty(leaf, side="samples", backend="triton")
        wanted = correlation_oracle.covariance_penalty(exact)
        torch.testing.assert_close(value.double(), wanted, rtol=5e-3, atol=0)
        gradient, slope = torch.autograd.grad(value, leaf)[0], torch.autograd.grad(wanted, exact)[0]
        for mine, exact in ((gradient, slope), (gradient[:, 0], slope[:, 0])):
            assert (mine.double() - exact).norm() < torch.finfo(dtype).eps * exact.norm()

    def test_columns_far_apart_keep_their_gradients_in_float16() -> None:
        """A column a thousand times as small as another still has the digits of float16."""
        z = (torch.randn(N, D) * torch.logspace(-2, 1, D)).half()
        leaf, exact = z.clone().requires_grad_(), z.double().requires_grad_()
        (SF.covariance_penalty(leaf, side="samples", backend="triton") * 1024).backward()
        (correlation_oracle.covariance_penalty(exact) * 1024).backward()
        error = (leaf.grad.double() - exact.grad).norm(dim=0) / exact.grad.norm(dim=0)
        assert (error < 8 * torch.finfo(torch.float16).eps).all(), error

    @pytest.mark.parametrize(
        ("loss", "n", "d", "side"),
        (
            (SF.barlow_twins, 29, 40, "samples"),  # 8*29 < 6*40
            (SF.barlow_twins, 30, 40, "features"),
            (SF.vicreg, 26, 40, "samples"),  # 12*26 < 8*40
            (SF.vicreg, 27, 40, "features"),
            (SF.vibcreg, 39, 40, "samples"),
            (SF.vibcreg, 40, 40, "features"),
        ),
    )
    def test_the_side_with_fewer_operations_is_taken(
        loss: Callable[..., Tensor], n: int, d: int, side: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken, energies = [], triton_loss._energies

        def watched(job: triton_loss.Job, matrix: Tensor) -> triton_loss.Sums:
            taken.append(job.energy.side)
            return energies(job, matrix)

        monkeypatch.setattr(triton_loss, "_energies", watched)
        loss(*(z.half() for z in similar(n, d)), backend="triton")
        assert taken == [side]
