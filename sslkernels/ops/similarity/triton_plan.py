# SPDX-License-Identifier: Apache-2.0
"""How the similarity family runs on Triton: which way through the pairs, in which blocks, and in what grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sslkernels import backends
from sslkernels.ops.launch import dot_precision, power_of_two
from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.triton_launch import cdiv, processors

# The chunked path holds this much of logits, and of weights beside them, at once. It cannot do without any.
WORKSPACE = max(backends.WORKSPACE, 1 << 20)  # bytes
# The fused path unrolls up to this many exclusions. The losses need two; the chunked path loops over any number.
FUSED_EXCLUSIONS = 2  # per row


@dataclass(frozen=True)
class Blocks:
    """The tile of a kernel, and how it runs."""

    n: int  # rows that a program keeps
    m: int  # rows of the other side per step
    warps: int
    stages: int  # of the pipeline
    programs: int = 1  # per multiprocessor


@dataclass(frozen=True)
class Plan:
    """The way through the pairs, "fused" or "chunked", why it is taken, and the blocks of its kernels."""

    path: str
    reason: str
    forward: Blocks
    attend: Blocks
    backward: Blocks


# Compute capability (major) -> padded D -> blocks of the forward, of the forward with attended keys, of the backward.
# Triton 3.9 compiles every variant for sm_80, sm_90 and sm_100 without spills, and Triton 3.6 with at most 16 bytes of
# them. They were not measured on a GPU.
TABLE: dict[int, dict[int, tuple[Blocks, Blocks, Blocks]]] = {
    8: {
        64: (Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 2)),
        128: (Blocks(128, 32, 8, 3), Blocks(64, 64, 8, 2), Blocks(64, 64, 8, 3)),
        256: (Blocks(128, 32, 8, 3), Blocks(64, 32, 8, 2), Blocks(64, 32, 8, 2)),
    },
    9: {
        64: (Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3), Blocks(128, 64, 8, 3)),
        128: (Blocks(128, 64, 8, 3), Blocks(128, 32, 8, 2), Blocks(128, 64, 8, 3)),
        256: (Blocks(128, 64, 8, 3), Blocks(64, 32, 8, 2), Blocks(64, 64, 8, 2)),
    },
    10: {
        64: (Blocks(128, 32, 8, 3), Blocks(128, 64, 8, 3), Blocks(64, 64, 8, 3)),
        128: (Blocks(64, 64, 8, 3), Blocks(64, 64, 8, 2), Blocks(128, 64, 8, 3)),
        256: (Blocks(128, 32, 16, 2), Blocks(32, 32, 8, 2), Blocks(64, 32, 8, 2)),
    },
}
# Epilogues read a chunk once from memory: their tiles are small, and their programs many.
EPILOGUE = Blocks(16, 128, 4, 1, 4)


def plan(n: int, m: int, d: int, dtype: torch.dtype, capability: tuple[int, int], excluded: int = 0) -> Plan:
    """Choose the way through N x M pairs of D features on a device of ``capability``.

    A row leaves out up to ``excluded`` pairs.

    >>> plan(4096, 4096, 128, torch.bfloat16, (9, 0)).path, plan(4096, 4096, 768, torch.bfloat16, (9, 0)).path
    ('fused', 'chunked')
    """
    major, minor = capability
    if dtype == torch.float32:
        reason = "float32 tiles of logits and rows together exceed the registers, and cuBLAS multiplies them faster"
    elif d > 256:
        reason = f"D = {d} features of a block of rows exceed the registers; 256 is the most"
    elif excluded > FUSED_EXCLUSIONS:
        reason = f"{excluded} exclusions per row need a loop inside the tile; {FUSED_EXCLUSIONS} is the most unrolled"
    elif major not in TABLE or (major, minor) in ((8, 6), (8, 9)):
        reason = f"no block sizes for compute capability {major}.{minor}; they exist for 8.0, 8.7, 9.x and 10.x"
    else:
        bucket = max(64, power_of_two(d))
        reason = f"16-bit rows of D = {d} fit the registers, so that the logits of {n} x {m} pairs never reach memory"
        return Plan("fused", f"fused: {reason}.", *TABLE[major][bucket])
    chunks = f"chunks of logits go through a workspace of {WORKSPACE >> 20} MiB"
    return Plan("chunked", f"chunked: {reason}; {chunks}.", EPILOGUE, EPILOGUE, EPILOGUE)


def plan_for(pairs: Pairs) -> Plan:
    (n, d), m = pairs.x.shape, keys_of(pairs).shape[0]
    return plan(n, m, d, pairs.x.dtype, _capability(pairs.x.device), exclusions(pairs))


def keys_of(pairs: Pairs) -> Tensor:
    """The rows that those of x are paired with: y, or x itself."""
    return pairs.x if pairs.y is None else pairs.y


def exclusions(pairs: Pairs) -> int:
    """The number of exclusions per row."""
    return pairs.views or (0 if pairs.exclude is None else pairs.exclude.shape[1])


def _capability(device: torch.device) -> tuple[int, int]:
    """The compute capability; (0, 0) for the interpreter and GPUs of other makers, which `TABLE` leaves out."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0, 0
    return torch.cuda.get_device_capability(device)


def grid(n: int, m: int, blocks: Blocks, device: torch.device, columns: bool) -> tuple[int, int]:
    """Row programs and column programs: together about as many as the device runs at once.

    Without column sums each block of rows has a program, and columns are split only to fill the device. With them,
    row programs are few, because each keeps a sum for every column.
    """
    programs = processors(device) * blocks.programs
    row_blocks, column_blocks = cdiv(n, blocks.n), cdiv(m, blocks.m)
    if not columns:
        return row_blocks, max(1, min(column_blocks, programs // row_blocks))
    column_programs = min(column_blocks, max(8, programs // row_blocks))
    return min(row_blocks, max(1, programs // column_programs)), column_programs


def chunk(n: int, m: int, bytes_per_pair: int) -> tuple[int, int]:
    """Rows and columns of a chunk. It spans a whole side where that fits the workspace, else it is nearly square."""
    pairs = WORKSPACE // bytes_per_pair
    side = max(1, math.isqrt(pairs))
    side = side // 128 * 128 or side
    if n <= side:
        return n, min(m, max(1, pairs // n))
    if m <= side:
        return min(n, max(1, pairs // m)), m
    return side, side


def wide_chunk(n: int, m: int, bytes_per_pair: int) -> int:
    """Rows of a chunk that is as wide as the keys."""
    return min(n, max(64, WORKSPACE // (bytes_per_pair * m)))


def tile(blocks: Blocks, x: Tensor) -> dict[str, Any]:
    return {
        "PRECISION": dot_precision(),
        "BLOCK_N": blocks.n,
        "BLOCK_M": blocks.m,
        "BLOCK_D": max(16, power_of_two(x.shape[1])),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }


def epilogue_tile(blocks: Blocks) -> dict[str, Any]:
    return {"BLOCK_N": blocks.n, "BLOCK_M": blocks.m, "num_warps": blocks.warps}
