# SPDX-License-Identifier: Apache-2.0
"""Run a training step as users of CUDA graphs do: on another stream, without waiting, captured and replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def assert_captured(step: Callable[[], Sequence[Tensor]], change: Callable[[], object]) -> None:
    """Assert that ``step`` has the same bits on every stream, never waits for the device, and can be replayed.

    ``change`` writes other numbers to its inputs, in place. The replay must have the bits of a plain run on them.
    """
    first = [x.clone() for x in step()]  # this compiles
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # cuBLAS allocates a workspace for each stream
            beside = step()
    torch.cuda.current_stream().wait_stream(side)
    assert all(torch.equal(x, y) for x, y in zip(first, beside, strict=True))
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        change()
    graph.replay()
    assert all(torch.equal(x, y) for x, y in zip(captured, step(), strict=True))
