# SPDX-License-Identifier: Apache-2.0
"""Run the ema family on compiled CUDA kernels: one launch for all tensors, with a table of chunks on the device.

A table stays valid while addresses, sizes and dtypes are the same; a step then copies nothing to the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sslkernels.cuda import launch
from sslkernels.ops.ema import reference
from sslkernels.ops.ema.pairs import Pairs
from sslkernels.ops.launch import CODES, pointer, rows_of

# csrc/cuda/ema.cu has the same numbers: elements per block, threads per block, and threads per warp. The elements per
# block do not depend on the dtype, so that a chunk is aligned if its tensor is.
CHUNK, THREADS, WARP = 8192, 256, 32
SIZES = np.array([dtype.itemsize for dtype in CODES])

# A table is found by its pairs and its device; the one used last is at the end. Old tables are dropped, because a
# training that makes new tensors at every step would fill the device with them.
TABLES = 32
_tables: dict[tuple[bytes, int], Tensor] = {}
# A CUDA graph reads these tables whenever it is replayed, so they are never dropped.
_captured: dict[tuple[bytes, int], Tensor] = {}


def update(pairs: Pairs, momentum: float, at: Tensor | None) -> None:
    x = pairs.targets[0]
    with torch.cuda.device_of(x):
        table = _table(pairs.table, x)
        launch(
            "ema", "update", x, (len(table), 1), (THREADS, 1), table.data_ptr(), pointer(at), float(momentum),
        )  # fmt: skip


def enqueue(queue: Tensor, keys: Tensor, position: Tensor | None, offset: int) -> None:
    keys = rows_of(keys)
    (count, d), size = keys.shape, queue.shape[0]
    if queue.stride(1) != 1 and d > 1:
        return reference.enqueue(queue, keys, position, offset)
    if keys.numel() == 0:
        return
    width = 16 // max(queue.dtype.itemsize, keys.dtype.itemsize)
    vector = d % width == 0 and all(
        step % (width * tensor.element_size()) == 0
        for tensor in (queue, keys)
        for step in (tensor.data_ptr(), tensor.stride(0) * tensor.element_size())
    )
    across = min(WARP, 1 << (-(-d // (width if vector else 1)) - 1).bit_length())
    down = THREADS // across
    launch(
        "ema", "enqueue", queue, (-(-count // down), 1), (across, down),
        queue.data_ptr(), queue.stride(0), size, keys.data_ptr(), keys.stride(0), count, d,
        CODES[queue.dtype] + 256 * CODES[keys.dtype], vector, pointer(position),
        0 if position is None else position.element_size(), position is not None and position.dtype.is_signed, offset,
    )  # fmt: skip


def _table(pairs: bytes, x: Tensor) -> Tensor:
    """Return the chunks of ``pairs`` on the device of ``x``, which is the current one."""
    key = (pairs, x.get_device())
    if (table := _captured.get(key)) is not None:
        return table
    table = _tables.pop(key, None)
    if torch.cuda.is_current_stream_capturing():
        if table is None:
            raise RuntimeError(
                "ema_update_: a CUDA graph is being captured and these tensors have not been updated before, or not "
                f"within the last {TABLES} sets of tensors; call it once with the same tensors before capturing."
            )
        _captured[key] = table
        return table
    if table is None:
        table = _sent(_chunks(pairs), x)
    else:
        _read_by_current_stream(table)
    _tables[key] = table
    while len(_tables) > TABLES:
        _tables.pop(next(iter(_tables)), None)
    return table


def _chunks(pairs: bytes) -> Tensor:
    """Cut pairs into chunks: a row for each, with the addresses of target, source and master, count and dtypes."""
    whole = np.frombuffer(pairs, np.int64).reshape(-1, 5)
    parts = -(-whole[:, 3] // CHUNK)
    chunks = whole.repeat(parts, axis=0)
    target, source, master, count, dtypes = chunks.T
    first = CHUNK * (np.arange(len(chunks)) - (parts.cumsum() - parts).repeat(parts))
    target += first * SIZES[dtypes % 256]
    source += first * SIZES[dtypes // 256]
    master += first * 4 * (master != 0)
    count[:] = np.minimum(count - first, CHUNK)
    return torch.from_numpy(chunks)


def _sent(chunks: Tensor, x: Tensor) -> Tensor:
    """Copy the chunks to the device in the order of the current stream, without waiting.

    A stream that reads them later need not wait either. Whoever lets two streams write the same targets must put them
    in order, and this copy comes before the first of the writes.
    """
    return chunks.pin_memory().to(x.device, non_blocking=True)


def _read_by_current_stream(table: Tensor) -> None:
    """Keep the table's memory from being reused before the current stream has read it."""
    table.record_stream(torch.cuda.current_stream(table.device))
