# SPDX-License-Identifier: Apache-2.0
"""Compare every instruction set that this processor can run with the oracle, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sslkernels import _C

AGAINST_THE_ORACLE = """
import neighbours_oracle as oracle, torch
import sslkernels.functional as SF
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    for n, m, d, k in ((1, 1, 1, 1), (3, 2, 257, 2), (17, 33, 31, 1), (34, 230, 3, 40), (210, 230, 33, 3)):
        x, y = (torch.randint(-2, 3, (rows, d)).to(dtype) for rows in (n, m))
        for metric in ("dot", "euclidean"):
            for keys, exclude in ((y, torch.randint(-1, m, (n, 2))), (None, None)):
                some = k if keys is y else min(k, n)
                values, indices = SF.topk_similarity(
                    x, keys, some, metric=metric, exclude=exclude, backend="cpu"
                )
                wanted, places = oracle.topk(x, keys, some, metric, exclude=exclude)
                assert torch.equal(indices, places)
                torch.testing.assert_close(values.double(), wanted, rtol=1e-6, atol=0)
        x, y = torch.randn(n, d).to(dtype), torch.randn(m, d).to(dtype)
        cosines = SF.topk_similarity(x, y, k, metric="cosine", backend="cpu")[0]
        close = 4 * torch.finfo(dtype).eps + 1e-15
        torch.testing.assert_close(cosines.double(), oracle.topk(x, y, k, "cosine")[0], rtol=close, atol=close)
    rows = torch.randn(57, 37).to(dtype)  # equal rows tie wherever they stand
    groups = SF.topk_similarity(rows, torch.cat([rows] * 4), 8, backend="cpu")[1].view(57, 2, 4)
    assert torch.equal(groups, groups[:, :, :1] % 57 + 57 * torch.arange(4))
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_agrees_with_the_oracle(isa: str, run_python: Callable) -> None:
    done = run_python(AGAINST_THE_ORACLE.format(isa=isa), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr
