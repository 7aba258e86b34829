# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the neighbours family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sslkernels.ops.neighbours import triton_kernels as kernels
from sslkernels.ops.neighbours.triton import FEW, MOST, tile_of
from sslkernels.ops.triton_launch import row_tile

INTEGERS = {
    "n", "m", "d", "k", "count", "excluded", "row_blocks", "column_programs", "x_stride", "y_stride", "x_apart",
    "y_apart",
}  # fmt: skip
FLOATS: set[str] = set()
POINTERS = {"exclude": "i64", "bound": "i64", "best_out": "i64", "indices": "i64"}
INDIVISIBLE: set[str] = set()


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    for dtype in ("bf16", "fp16", "fp32") if everything else ("bf16", "fp32"):
        rows = {"x": dtype, "y": dtype}
        for kept in (FEW, MOST):
            launch = dict(tile_of(dtype == "fp32", kept))
            options = {"num_warps": launch.pop("num_warps")}
            for itself in (True, False):
                for plain, absent in ((True, {"bias": None, "exclude": None, "bound": None}), (False, {})):
                    constants = {**launch, **absent, "ITSELF": itself, "PRECISION": "ieee", "KEPT": kept}
                    name = f"best {dtype} k={kept} itself={itself}{' plain' * plain}"
                    yield name, kernels.best_kernel, rows, constants, options
        for width in (16, 128, 4096) if everything else (128,):
            launch = row_tile(width)
            options = {"num_warps": launch.pop("num_warps")}
            yield f"distances {dtype} D={width}", kernels.distances_kernel, rows, launch, options
