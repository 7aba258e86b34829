# SPDX-License-Identifier: Apache-2.0
"""The work of the ema kernels: everything is read and written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sslkernels.ops.work import Count, Work, size_of

ROW = 32  # bytes of the table for each chunk
MASTER = 4  # bytes of a number of a master


def _update(launch: Mapping[str, Any]) -> Work:
    """The table holds addresses, so every chunk is counted as if it were full and of this launch's kind."""
    chunks = launch["chunks"].shape[0]
    target, source = (launch[name].primitive_bitwidth // 8 for name in ("TARGET", "SOURCE"))
    master = MASTER if launch["MASTER"] else 0
    numbers = chunks * launch["BLOCK"]
    return Work(
        fp32_ops=20 * numbers,  # ten of them are multiply-adds
        bytes_read=numbers * (target + source + master) + chunks * ROW,
        bytes_written=numbers * (target + master),
    )


def _enqueue(launch: Mapping[str, Any]) -> Work:
    queue, keys = launch["queue"], launch["keys"]
    return Work(bytes_read=size_of(keys, launch["position"]), bytes_written=keys.numel() * queue.element_size())


WORK: dict[str, Count] = {"update_kernel": _update, "enqueue_kernel": _enqueue}
