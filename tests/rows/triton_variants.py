# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the rows family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from sslkernels.ops.rows import triton_kernels as kernels
from sslkernels.ops.rows.triton import REGISTERS
from sslkernels.ops.triton_launch import row_tile

INTEGERS = {
    "n", "m", "d", "x_stride", "y_stride", "z_stride", "grad_stride", "shift", "out_rows", "more", "other_stride"
}  # fmt: skip
FLOATS = {"eps", "offset", "weight", "share"}
POINTERS: dict[str, str] = {}
INDIVISIBLE: set[str] = set()


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    for dtype, width in product(("bf16", "fp32"), (16, 128, 4096) if everything else (128,)):
        yield from row_kernels(dtype, width)


def row_kernels(dtype: str, width: int) -> Iterator[Any]:
    size = row_tile(width)
    options = {"num_warps": size.pop("num_warps")}
    rows = dict.fromkeys(("x", "y", "z", "other", "unit", "dx", "dz", "out"), dtype)
    for views, absent in ((1, {"other": None}), (2, {})):
        yield f"unit_rows {dtype} D={width} views={views}", kernels.unit_rows_kernel, rows, {**size, **absent}, options
    yield (
        f"unit_rows_backward {dtype} D={width}",
        kernels.unit_rows_backward_kernel,
        {**rows, "grad": dtype},
        size,
        options,
    )
    yield f"row_dot {dtype} D={width}", kernels.row_dot_kernel, {**rows, "out": "fp32"}, size, options
    both = {"GIVEN": True, "RECEIVED": True, **size}
    yield f"row_dot_backward {dtype} D={width}", kernels.row_dot_backward_kernel, rows, both, options
    sides = dict.fromkeys(("x", "y", "dx", "dy"), dtype)
    yield f"row_cosine {dtype} D={width}", kernels.row_cosine_kernel, sides, size, options
    for absent in ({}, {"dy": None}):
        name = f"{dtype} D={width} frozen={bool(absent)}"
        yield f"row_cosine_backward {name}", kernels.row_cosine_backward_kernel, sides, {**size, **absent}, options
        sums = dict.fromkeys(("dx", "dy"), "fp32")
        most = {**options, "maxnreg": REGISTERS}
        yield f"cosine_loss {name}", kernels.cosine_loss_kernel, {**sides, **sums}, {**size, **absent}, most
