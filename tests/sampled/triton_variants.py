# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the sampled family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from sslkernels.ops.sampled import triton_kernels as kernels
from sslkernels.ops.sampled.triton import TILE

INTEGERS = {"n", "m", "k", "d", "x_stride", "y_stride", "k_blocks", "parts", "column_blocks"}
FLOATS: set[str] = set()
POINTERS: dict[str, str] = {"order": "i64", "ends": "i64"}
INDIVISIBLE: set[str] = set()


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    indices = ("i64", "i32") if everything else ("i64",)
    for dtype, index, width in product(("bf16", "fp32"), indices, (16, 128, 4096) if everything else (128,)):
        rows, columns = TILE.sides(width)
        types = {"x": dtype, "y": dtype, "dy": dtype, "index": index}
        size, options = {"BLOCK_K": rows, "BLOCK_D": columns}, {"num_warps": TILE.warps}
        for name in ("products", "gradient_of_x", "gradient_of_y"):
            if index == "i64" or name != "gradient_of_y":  # which reads no index
                yield f"{name} {dtype} {index} D={width}", getattr(kernels, f"{name}_kernel"), types, size, options
