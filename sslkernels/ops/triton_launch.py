# SPDX-License-Identifier: Apache-2.0
"""What the Triton launchers of every family share: the size of the device, of tiles, and new tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cdiv(size: int, block: int) -> int:
    """Blocks that cover ``size``. triton.cdiv does the same, but takes a microsecond."""
    return -(-size // block)


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU. Elsewhere a few, which is enough for the interpreter to split work."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def power_of_two(size: int) -> int:
    """The least power of two that is not below ``size``, which is positive."""
    return 1 << (size - 1).bit_length()


def row_tile(d: int) -> dict[str, Any]:
    """A tile of 2048 numbers for kernels that walk along rows of D features: as many rows as fit, and 4 warps."""
    block_d = min(1024, max(16, power_of_two(d)))
    return {"BLOCK_N": 2048 // block_d, "BLOCK_D": block_d, "num_warps": 4}


def empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new tensor on the device of ``like``. All that launchers allocate for sums comes from here, where tests fill
    it with NaN.
    """
    return torch.empty(shape, dtype=dtype, device=like.device)


def floats(like: Tensor, *shape: int) -> Tensor:
    return empty(like, shape, torch.float32)


def doubles(like: Tensor, *shape: int) -> Tensor:
    return empty(like, shape, torch.float64)
