# SPDX-License-Identifier: Apache-2.0
"""Compare each instruction set that this processor can run with the float64 formulas, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sslkernels import _C

AGAINST_THE_FORMULAS = """
import correlation_oracle as oracle, torch
from functools import partial
import sslkernels.functional as SF
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
for dtype, close in ((torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
    for n, d in ((2, 3), (9, 40), (40, 9), (199, 60), (60, 199), (210, 410), (410, 210), (2100, 40)):
        base = torch.randn(n, d)
        z0, z1 = (
            (base + torch.randn(n, d)).to(dtype).requires_grad_() for _ in range(2)
        )
        for side in ("samples", "features"):
            for ours, formula in (
                (SF.vicreg, oracle.vicreg),
                (partial(SF.barlow_twins, eps=0.1), partial(oracle.barlow_twins, eps=0.1)),
            ):
                value = ours(z0, z1, side=side, backend="cpu")
                gradients = torch.autograd.grad(value, (z0, z1))
                leaves = [z.detach().double().requires_grad_() for z in (z0, z1)]
                exact = formula(*leaves)
                torch.testing.assert_close(value.double(), exact, rtol=close, atol=close)
                # On the side of samples rounding is felt in all of C, diagonal included.
                allowed = close * (1 + n / d if side == "samples" else 1)
                for gradient, slope in zip(gradients, torch.autograd.grad(exact, leaves)):
                    size = float(slope.norm()) + 1e-3 * n ** 0.5
                    assert (gradient.double() - slope).norm() <= allowed * size, (dtype, n, d, side)
print("agrees")
"""


EVERY_SCALE = """
import sys
sys.path.insert(0, {folder!r})
import test_correlation_scales as scales, test_sigreg_scales as sigreg, torch
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
for loss in scales.LOSSES:
    for side in scales.SIDES:
        for n, d in ((12, 7), (40, 70), (70, 40)):
            for power in scales.USUAL:
                scales.assert_agree(loss, side, "cpu", *scales.views(n, d, 10.0**power), 1e-3)
        scales.test_columns_of_unlike_scale("cpu", loss, side)
        scales.test_large_common_mean("cpu", loss, side)
for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    for n, d in ((1, 1), (2, 300), (33, 5), (200, 33)):
        scales.test_moments_of_any_shape_and_strides("cpu", dtype, n, d)
for dtype in (torch.float32, torch.float64):
    sigreg.test_huge_projections_stay_on_the_circle("cpu", dtype, 3 / 16)
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_holds_every_scale(isa: str, run_python: Callable) -> None:
    here = Path(__file__).parent
    script = f"import sys; sys.path.insert(0, {str(here.parent / 'sigreg')!r})" + EVERY_SCALE
    done = run_python(script.format(isa=isa, folder=str(here)), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_agrees_with_the_formulas(isa: str, run_python: Callable) -> None:
    done = run_python(AGAINST_THE_FORMULAS.format(isa=isa), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr
