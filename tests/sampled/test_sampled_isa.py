# SPDX-License-Identifier: Apache-2.0
"""Run the tests of values on every instruction set of this processor, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslkernels import _C


@pytest.mark.slow
@pytest.mark.parametrize("isa", _C.available_isas()[:-1])  # the best has passed them already
def test_agrees_with_the_oracle(isa: str, tmp_path: Path) -> None:
    tests = str(Path(__file__).parent / "test_sampled_values.py")
    chosen = "not reference and not compile and not buffer and not gradcheck and not many_shapes"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", chosen, "-p", "no:cacheprovider", tests],
        cwd=tmp_path,
        env={**os.environ, "SSLKERNELS_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert _C.isa() != isa  # this process runs the best
