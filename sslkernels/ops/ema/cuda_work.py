# SPDX-License-Identifier: Apache-2.0
"""The work of the ema kernels in csrc/cuda: everything is read and written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sslkernels.ops.ema.cuda import SIZES
from sslkernels.ops.work import Count, Work, size_of


def _update(launch: Mapping[str, Any]) -> Work:
    """The table has a row for each chunk: addresses of target, source and master, count, and dtypes."""
    table, at, _ = launch["fields"]
    _, _, master, count, dtypes = table.on_host.numpy().T
    target, source, master = SIZES[dtypes % 256], SIZES[dtypes // 256], 4 * (master != 0)
    place = size_of(at) if isinstance(at, Tensor) else 0
    return Work(
        bytes_read=int((count * (target + source + master)).sum()) + size_of(table) + place,
        bytes_written=int((count * (target + master)).sum()),
    )


def _enqueue(launch: Mapping[str, Any]) -> Work:
    queue, _, _, keys, *_ = launch["fields"]
    return Work(bytes_read=size_of(keys), bytes_written=keys.numel() * queue.element_size())


WORK: dict[str, Count] = {"update": _update, "enqueue": _enqueue}
