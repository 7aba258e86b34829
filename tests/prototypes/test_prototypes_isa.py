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
import test_prototypes as plain
from sslkernels import _C

assert _C.isa() == {isa!r}, _C.isa()
torch.manual_seed(0)
torch.set_num_threads(2)
for dtype in plain.CLOSE:
    for shape in (*plain.SHAPES, (2, 9, 5000, 7, 3), (1, 210, 400, 130, 5)):
        plain.check_loss(plain.problem(shape, dtype), "cpu")
    plain.check_loss(plain.of_crops(5, dtype), "cpu")
    plain.check_loss(plain.of_many(450, 310, 401, 3, dtype), "cpu")
    for shape in ((1, 1, 1), (2, 17, 3), (40, 9, 8), (31, 5000, 3)):
        plain.check_bias(*shape, dtype, "cpu")
    plain.test_products_are_never_rounded_to_16_bits("cpu", (200, 450, 97), dtype)
plain.test_rows_count_as_often_as_their_weight_says("cpu")
print("agrees")
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas())
def test_agrees_with_the_oracle(isa: str, run_python: Callable) -> None:
    folder = str(Path(__file__).parent)
    done = run_python(AGAINST_THE_ORACLE.format(isa=isa, folder=folder), SSLKERNELS_ISA=isa)
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stderr
