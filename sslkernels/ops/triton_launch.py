# SPDX-License-Identifier: Apache-2.0
"""Helpers that the Triton launchers of every family share: the size of the device, tiles, and new tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.gpu import capability, processors
from sslkernels.ops.launch import power_of_two

__all__ = (
    "ROWS", "Area", "Tile", "capability", "cdiv", "doubles", "empty", "floats", "processors", "row_tile",
)  # fmt: skip


class Tile(NamedTuple):
    """The rows and columns that a program holds at once, and the warps that share them."""

    rows: int
    columns: int
    warps: int


class Area(NamedTuple):
    """The numbers of a tile whose sides follow from the data, and the warps that share them."""

    numbers: int
    warps: int

    def sides(self, width: int, widest: int = 256) -> tuple[int, int]:
        """Rows and columns of the tile: as many columns as ``width`` needs, up to ``widest``, and rows for the rest."""
        columns = min(widest, max(16, power_of_two(width)))
        return self.numbers // columns, columns


# The tile of kernels that walk along the features of a block of rows.
ROWS = Area(numbers=2048, warps=4)


def cdiv(size: int, block: int) -> int:
    """Blocks that cover ``size``. triton.cdiv does the same, but takes more than a microsecond."""
    return -(-size // block)


def row_tile(d: int) -> dict[str, Any]:
    """The tile of a kernel that walks along rows of D features."""
    rows, features = ROWS.sides(d, widest=1024)
    return {"BLOCK_N": rows, "BLOCK_D": features, "num_warps": ROWS.warps}


def empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A new tensor on the device of ``like``. The tests have every one begin as NaN."""
    return torch.empty(shape, dtype=dtype, device=like.device)


def floats(like: Tensor, *shape: int) -> Tensor:
    return empty(like, shape, torch.float32)


def doubles(like: Tensor, *shape: int) -> Tensor:
    return empty(like, shape, torch.float64)
