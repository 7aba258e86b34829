# SPDX-License-Identifier: Apache-2.0
"""Compare SIGReg and LeJEPA with the dense tensor in float64: rows from 1e-38 to 1e38, and entries that are not finite.

From 1e7 on, float32 projections, and so their angles, are less exact than a turn. Then we ask only that points lie on
the unit circle, and about as many on either side of it.
"""

from __future__ import annotations

import math

import pytest
import sigreg_oracle as dense
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.ops.sigreg import schema as sigreg

SLICES = dense.unit_slices(6, 9).float()


def found(loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def leaves_of(*views: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    return [z.clone().requires_grad_() for z in views], [z.double().requires_grad_() for z in views]


@pytest.mark.parametrize("power", [-38, -30, -20, -9, -3, 0, 2])
def test_sigreg_of_any_size(backend: str, power: int) -> None:
    ours, exact = leaves_of(10.0**power * torch.randn(2, 11, 6))
    got = found(SF.sigreg(*ours, SLICES, backend=backend), *ours)
    want = found(dense.sigreg(*exact, SLICES), *exact)
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-5, atol=0)
    assert (got[1].double() - want[1]).norm() <= 1e-4 * want[1].norm()


@pytest.mark.parametrize("step", [3 / 16, 1e-3, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_huge_projections_stay_on_the_circle(backend: str, dtype: torch.dtype, step: float) -> None:
    largest = 38 if dtype == torch.float32 else 300
    for power in range(6, largest + 1, 4):
        p = (10.0**power * torch.rand(1, 1, 500, dtype=torch.float64)).to(dtype)
        sums = sigreg.sums(p, step, 17, backend)
        torch.testing.assert_close(sums.square().sum(1), torch.ones_like(sums[:, 0]), rtol=0, atol=1e-5)
        grad = torch.ones(1, 2, 17, 500, dtype=dtype)
        slope = sigreg.adjoint(p, grad, step, backend)
        assert slope.isfinite().all() and slope.abs().max() <= 2**0.5 * step * 16 * 17 / 2 * (1 + 1e-5)
        if power * math.log(10) > math.log(100 / step):
            assert sums[0, :, 1].mean(1).abs().max() < 0.25  # that is some five deviations of a mean of 500


@pytest.mark.parametrize("weight", [0.0, 0.05])
@pytest.mark.parametrize("power", [-30, -12, 0, 6, 17, 19])
def test_lejepa_of_any_size(backend: str, power: int, weight: float) -> None:
    """The mean of squares fits float32 even where their sum does not."""
    ours, exact = leaves_of(*(10.0**power * torch.randn(views, 64, 6) for views in (3, 2)))
    got = found(SF.lejepa(*ours, SLICES, weight=weight, backend=backend), *ours)
    want = found(dense.lejepa(*exact, SLICES, weight), *exact)
    torch.testing.assert_close(got[0].double(), want[0], rtol=1e-5, atol=1e-36)
    for slope, right in zip(got[1:], want[1:], strict=True):
        assert (slope.double() - right).norm() <= 1e-4 * right.norm()


@pytest.mark.parametrize("entry", [math.inf, -math.inf, math.nan])
def test_an_entry_that_is_not_finite(backend: str, entry: float) -> None:
    z = torch.randn(2, 11, 6)
    z[0, 3, 1] = entry
    ours, exact = leaves_of(z)
    got, want = found(SF.sigreg(*ours, SLICES, backend=backend), *ours), found(dense.sigreg(*exact, SLICES), *exact)
    assert got[0].isnan() and torch.equal(got[1].isfinite(), want[1].isfinite())
    torch.testing.assert_close(got[1][1].double(), want[1][1], rtol=0, atol=1e-6)
