# SPDX-License-Identifier: Apache-2.0
"""Every instruction set that this processor can run, each in a process of its own, against the float64 formulas."""

from __future__ import annotations

from collections.abc import Callable

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


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_agrees_with_the_formulas(isa: str, run_python: Callable) -> None:
    done = run_python(AGAINST_THE_FORMULAS.format(isa=isa), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr
