# SPDX-License-Identifier: Apache-2.0
"""What the Triton launchers of every family share: the size of the device, of tiles, and new tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    """What a program holds at once, and the warps that share it."""

    rows: int
    columns: int
    warps: int


class Area(NamedTuple):
    """A tile whose sides follow from the data: its numbers, and the warps that share them."""

    numbers: int
    warps: int

    def sides(self, width: int, widest: int = 256) -> tuple[int, int]:
        """Rows and columns: as many columns as ``width`` needs, up to ``widest``, and rows for the rest."""
        columns = min(widest, max(16, power_of_two(width)))
        return self.numbers // columns, columns


# What kernels read that walk along rows of features.
ROWS = Area(numbers=2048, warps=4)


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
    """The tile of a kernel that walks along rows of D features."""
    rows, features = ROWS.sides(d, widest=1024)
    return {"BLOCK_N": rows, "BLOCK_D": features, "num_warps": ROWS.warps}


def empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new tensor on the device of ``like``. All that launchers allocate for sums comes from here, where tests fill
    it with NaN.
    """
    return torch.empty(shape, dtype=dtype, device=like.device)


def floats(like: Tensor, *shape: int) -> Tensor:
    return empty(like, shape, torch.float32)


def doubles(like: Tensor, *shape: int) -> Tensor:
    return empty(like, shape, torch.float64)
