# SPDX-License-Identifier: Apache-2.0
"""Compare every instruction set that this processor can run with the oracle, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sslkernels import _C

AGAINST_THE_ORACLE = """
import rows_oracle, similarity_oracle as oracle, torch
import sslkernels.functional as SF
from sslkernels import _C
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.rows.cosine import row_cosine

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
for dtype, close in ((torch.float64, 1e-11), (torch.float32, 2e-5), (torch.bfloat16, 2e-5), (torch.float16, 2e-5)):
    coarse = max(close, 2 * torch.finfo(dtype).eps)
    for n, m, d in ((1, 1, 1), (3, 2, 257), (17, 33, 31), (34, 17, 3), (210, 230, 33)):
        x, y = (torch.randn(rows, d).div(d ** 0.5).to(dtype).requires_grad_() for rows in (n, m))
        for keys in (y, None):
            exclude = torch.randint(-1, m if keys is y else n, (n, 2))
            lse = SF.logsumexp_similarity(x, keys, 1.7, exclude=exclude, dim="both", backend="cpu")
            expected = oracle.logsumexp_similarity(x, keys, 1.7, exclude)
            for given, exact in zip(lse, expected):
                torch.testing.assert_close(given.double(), exact, rtol=close, atol=close)
            left = [given.isfinite() for given in lse]
            value = lambda lse: sum(side[kept].sin().sum() for side, kept in zip(lse, left))
            leaves = [leaf for leaf in (x, keys) if leaf is not None]
            gradients = torch.autograd.grad(value(lse), leaves)
            exact = rows_oracle.gradients(
                lambda *leaves: value(oracle.logsumexp_similarity(*leaves, scale=1.7, exclude=exclude)), leaves
            )
            for given, wanted in zip(gradients, exact):
                size = 1 + float(wanted.abs().max())
                torch.testing.assert_close(given.double(), wanted, rtol=coarse, atol=coarse * size)
        (frozen,) = torch.autograd.grad(SF.logsumexp_similarity(x, y.detach(), 1.7, backend="cpu").sum(), x)
        (wanted,) = rows_oracle.gradients(lambda x: oracle.logsumexp_similarity(x, y, 1.7)[0].sum(), [x])
        torch.testing.assert_close(frozen.double(), wanted, rtol=coarse, atol=coarse)
        torch.testing.assert_close(unit_rows(x, backend="cpu").double(), rows_oracle.unit(x), rtol=coarse, atol=coarse)
        dots = row_dot(x, shift=1, backend="cpu").double()
        expected = (x.double() * x.double().roll(-1, 0)).sum(1)
        torch.testing.assert_close(dots, expected, rtol=close, atol=close)
        sides = (x, (x.detach().roll(1, 1) + x.detach()).requires_grad_())
        cosines = row_cosine(*sides, 0.5, backend="cpu")
        torch.testing.assert_close(cosines.double(), rows_oracle.cosine(*sides, 0.5), rtol=close, atol=close)
        found = torch.autograd.grad(cosines.sin().sum(), sides)
        wanted = rows_oracle.gradients(lambda *sides: rows_oracle.cosine(*sides, 0.5).sin().sum(), sides)
        for gradient, slope in zip(found, wanted):
            torch.testing.assert_close(gradient.double(), slope, rtol=coarse, atol=coarse)
        value = SF.negative_cosine_similarity(*sides, eps=0.5, backend="cpu")
        oracle_value = lambda *sides: -rows_oracle.cosine(*sides, 0.5).mean()
        torch.testing.assert_close(value.double(), oracle_value(*sides), rtol=close, atol=close)
        found = torch.autograd.grad(value, sides)
        for gradient, slope in zip(found, rows_oracle.gradients(oracle_value, sides)):
            torch.testing.assert_close(gradient.double(), slope, rtol=coarse, atol=coarse)
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_agrees_with_the_oracle(isa: str, run_python: Callable) -> None:
    done = run_python(AGAINST_THE_ORACLE.format(isa=isa), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr


def test_the_baseline_is_always_there() -> None:
    assert _C.available_isas()[0] == "baseline"
    assert _C.isa() in _C.available_isas()


def test_an_unknown_instruction_set_is_an_import_error(run_python: Callable) -> None:
    done = run_python("import sslkernels", SSLKERNELS_ISA="sse9")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ImportError" in last or "ValueError" in last
    assert "SSLKERNELS_ISA" in last and "sse9" in last and "baseline" in last
