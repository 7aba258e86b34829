# SPDX-License-Identifier: Apache-2.0
"""The peak of a call counts memory that is freed again, and none from before."""

from __future__ import annotations

import sys

import pytest
import torch

from sslkernels.peak_memory import peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_sees_what_was_freed_again():
    def call() -> None:
        torch.ones(1 << 24).sum()

    torch.ones(1 << 26)  # sets an earlier and higher mark, which must not count
    peak = peak_memory(call, torch.device("cpu"))
    assert peak == pytest.approx(64 << 20, rel=0.1)
    assert peak_memory(lambda: None, torch.device("cpu")) < 4 << 20
