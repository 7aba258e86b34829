# SPDX-License-Identifier: Apache-2.0
"""Compare every instruction set that this processor can run with the oracle, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sslkernels import _C

AGAINST_THE_ORACLE = """
import sys
sys.path.insert(0, {folder!r})
import torch
import test_attention as plain
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
torch.set_num_threads(2)
for dtype in plain.CLOSE:
    for shape in ((1, 1, 1, 1), (3, 2, 257, 5), (17, 33, 31, 49), (34, 17, 3, 1), (210, 230, 33, 18)):
        given = plain.problem(*shape, dtype, excluded=2)
        close = 2 * plain.CLOSE[dtype]
        for needs in (plain.NAMES, ("keys", "values", "bias"), ("values",), ("query",), ("query", "values")):
            plain.check(given, "cpu", needs, close)
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_agrees_with_the_oracle(isa: str, run_python: Callable) -> None:
    folder = str(Path(__file__).parent)
    done = run_python(AGAINST_THE_ORACLE.format(isa=isa, folder=folder), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_low_precision_is_no_worse_than_eager(isa: str, run_python: Callable) -> None:
    """Instruction sets that multiply bfloat16 round weights and gradients of the output to it."""
    done = run_python(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch, test_attention_numerics as edges\n"
        "for seed in range(3):\n"
        "    for dtype in (torch.bfloat16, torch.float16):\n"
        "        for temperature, size in ((1.0, 1.0), (0.1, 1e-3)):\n"
        "            torch.manual_seed(seed)\n"
        "            edges.test_no_worse_than_eager_in_its_dtype('cpu', dtype, temperature, size)\n",
        SSLKERNELS_ISA=isa,
    )
    assert done.returncode == 0, done.stderr
