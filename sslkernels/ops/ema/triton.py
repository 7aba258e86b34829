# SPDX-License-Identifier: Apache-2.0
"""The ema family on Triton: list what to move in a table, and launch. Once the table is there, nothing waits for the
device.

A launch moves all pairs of one kind. A kind has the same dtypes of target and source, a master or none, and addresses
that are all multiples of 16 bytes or not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton.language as tl
from torch import Tensor

from sslkernels.capture import launching
from sslkernels.ops.ema import reference
from sslkernels.ops.ema import triton_kernels as kernels
from sslkernels.ops.ema.pairs import Pairs
from sslkernels.ops.ema.tables import device_table
from sslkernels.ops.launch import CODES, rows_of
from sslkernels.ops.triton_launch import Area, cdiv

# In both kernels a thread has 16 numbers on their way from each tensor. This was not measured on a GPU.
UPDATE = Area(numbers=4096, warps=8)
ENQUEUE = Area(numbers=2048, warps=4)
WIDEST = 256  # channels of a tile of enqueue
# Registers per thread for update, without a master and with one. The loads of a chunk are then on their way together,
# and a multiprocessor has room for three blocks, or two. Left alone, ptxas takes 40 in some variants, and spills.
REGISTERS = (80, 96)
# Triton's names and the bytes of dtypes, by their code.
TYPES = {CODES[torch.float32]: tl.float32, CODES[torch.bfloat16]: tl.bfloat16, CODES[torch.float16]: tl.float16}
BYTES = np.zeros(4, np.int64)
for _dtype, _code in CODES.items():
    BYTES[_code] = _dtype.itemsize


class Launch(NamedTuple):
    """The chunks of one kind, which are rows ``first`` to ``first + chunks`` of the table."""

    first: int
    chunks: int
    target: int
    source: int
    master: bool
    aligned: bool


def update(pairs: Pairs, momentum: float, at: Tensor | None) -> None:
    chunks, launches = device_table("triton", pairs, chunks_of)
    weights = weights_of(momentum)
    with launching("ema", chunks):
        for launch in launches:
            kernels.update_kernel[(launch.chunks,)](
                chunks, launch.first, *weights, at,
                TARGET=TYPES[launch.target], SOURCE=TYPES[launch.source], MASTER=launch.master,
                ALIGNED=launch.aligned, BLOCK=UPDATE.numbers, num_warps=UPDATE.warps, maxnreg=REGISTERS[launch.master],
            )  # fmt: skip


def weights_of(momentum: float) -> tuple[float, float, float]:
    """The weights of target and source in float32, and the remainder of the smaller one, as the kernel takes them."""
    keep, take = float(np.float32(momentum)), float(np.float32(1 - momentum))
    return keep, take, keep - momentum if keep < 0.5 else 1 - momentum - take


def chunks_of(table: bytes) -> tuple[np.ndarray, list[Launch]]:
    """Cut a table of `Pairs` into chunks (n, 4) for the kernel, and sort them by kind. Also returns their launches."""
    pairs = np.frombuffer(table, np.int64).reshape(-1, 5)
    kinds = pairs[:, 4] * 4 + (pairs[:, 2] != 0) * 2 + ((pairs[:, :3] % 16 == 0).all(1))
    order = np.argsort(kinds, kind="stable")
    target, source, master, count, dtypes = pairs[order].T
    chunks = -(-count // UPDATE.numbers)
    pair = np.repeat(np.arange(len(pairs)), chunks)
    first = (np.arange(len(pair)) - (np.cumsum(chunks) - chunks)[pair]) * UPDATE.numbers
    rows = np.stack(
        (
            target[pair] + first * BYTES[dtypes % 256][pair],
            source[pair] + first * BYTES[dtypes // 256][pair],
            master[pair] + first * BYTES[CODES[torch.float32]],
            np.minimum(UPDATE.numbers, count[pair] - first),
        ),
        axis=1,
    )
    launches = [
        Launch(int(start), int(number), kind // 4 % 256, kind // 1024, kind // 2 % 2 == 1, kind % 2 == 1)
        for kind, start, number in zip(
            *(part.tolist() for part in np.unique(kinds[order][pair], return_index=True, return_counts=True)),
            strict=True,
        )
    ]
    return rows, launches


def enqueue(queue: Tensor, keys: Tensor, position: Tensor | None, offset: int) -> None:
    keys = rows_of(keys)
    count, channels = keys.shape
    if queue.stride(1) != 1 and channels > 1:
        return reference.enqueue(queue, keys, position, offset)
    if keys.numel() == 0:
        return
    rows, width = ENQUEUE.sides(channels, WIDEST)
    column_blocks = cdiv(channels, width)
    with launching("ema", queue):
        kernels.enqueue_kernel[(cdiv(count, rows) * column_blocks,)](
            queue, keys, position, offset, queue.shape[0], count, channels, queue.stride(0), keys.stride(0),
            column_blocks, BLOCK_T=rows, BLOCK_C=width, num_warps=ENQUEUE.warps,
        )  # fmt: skip
