# SPDX-License-Identifier: Apache-2.0
"""Run the ema family on compiled CUDA kernels: one launch for all tensors, with a table of chunks on the device."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from sslkernels.cuda import launch
from sslkernels.ops.ema import reference
from sslkernels.ops.ema.pairs import Pairs
from sslkernels.ops.ema.tables import device_table
from sslkernels.ops.launch import CODES, pointer, rows_of

# csrc/cuda/ema.cu has the same numbers: elements per block, threads per block, and threads per warp. The elements per
# block do not depend on the dtype, so that a chunk is aligned if its tensor is.
CHUNK, THREADS, WARP = 8192, 256, 32
SIZES = np.array([dtype.itemsize for dtype in CODES])


def update(pairs: Pairs, momentum: float, at: Tensor | None) -> None:
    x = pairs.targets[0]
    table, _ = device_table("cuda", pairs, chunks_of)
    launch("ema", "update", x, (len(table), 1), (THREADS, 1), table.data_ptr(), pointer(at), float(momentum))


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


def chunks_of(table: bytes) -> tuple[np.ndarray, None]:
    """Cut pairs into chunks: a row for each, with the addresses of target, source and master, count and dtypes."""
    pairs = np.frombuffer(table, np.int64).reshape(-1, 5)
    parts = -(-pairs[:, 3] // CHUNK)
    chunks = pairs.repeat(parts, axis=0)
    target, source, master, count, dtypes = chunks.T
    first = CHUNK * (np.arange(len(chunks)) - (parts.cumsum() - parts).repeat(parts))
    target += first * SIZES[dtypes % 256]
    source += first * SIZES[dtypes // 256]
    master += first * 4 * (master != 0)
    count[:] = np.minimum(count - first, CHUNK)
    return chunks, None
