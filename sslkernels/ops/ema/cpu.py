# SPDX-License-Identifier: Apache-2.0
"""Run the ema family on the compiled C++ kernels: pass pointers."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.ema import reference
from sslkernels.ops.ema.pairs import Pairs
from sslkernels.ops.launch import CODES, rows_of


def update(pairs: Pairs, momentum: float, at: Tensor | None) -> None:
    _C.ema_update(pairs.table, momentum, torch.get_num_threads())


def enqueue(queue: Tensor, keys: Tensor, position: Tensor | None, offset: int) -> None:
    if queue.stride(1) != 1 and queue.shape[1] > 1:  # the kernel writes whole rows, and this queue has gaps in them
        return reference.enqueue(queue, keys, position, offset)
    keys = rows_of(keys)
    start = offset if position is None else offset + int(position)
    _C.ema_enqueue(
        CODES[queue.dtype], queue.data_ptr(), queue.stride(0), queue.shape[0],
        CODES[keys.dtype], keys.data_ptr(), keys.stride(0), keys.shape[0], keys.shape[1], start,
        torch.get_num_threads(),
    )  # fmt: skip
