# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernel of the sigmoid family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sslkernels.ops.sigmoid import triton_kernels as kernels
from sslkernels.ops.sigmoid.triton import tile_of
from sslkernels.ops.similarity import triton_plan as plan

INTEGERS = {
    "n", "m", "d", "x_stride", "y_stride", "out_stride", "total_n", "total_m", "first_row", "first_column",
}  # fmt: skip
FLOATS: set[str] = set()
POINTERS: dict[str, str] = {}
INDIVISIBLE: set[str] = set()

# Each op asks this of the kernel: the tensors that are absent, and whether it computes weights.
ASKED: dict[str, tuple[tuple[str, ...], bool]] = {
    "sums": (("row_weights", "unit", "weights_out", "tile_sums"), False),
    "value": (("row_weights", "unit", "weights_out", "row_sums"), False),
    "loss": (("row_weights", "unit", "row_sums"), True),
    "gradient": (("row_sums",), True),
}


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    for dtype in ("bf16", "fp16", "fp32") if everything else ("bf16", "fp32"):
        loaded = dtype == "fp32"
        used = plan.LOADED if loaded else plan.TABLE[architecture // 10][1]
        tile = plan.tile(tile_of(plan.Plan("", used, used, None, loaded)))
        options = {key: tile.pop(key) for key in ("num_warps", "num_stages")}
        for asked, (absent, slopes) in ASKED.items() if everything else (("loss", ASKED["loss"]),):
            for paired in (False, True):
                constants = {**tile, **dict.fromkeys(absent), "PAIRED": paired, "SLOPES": slopes, "ROOM": 1.0}
                constants |= {"y": None} if loaded else {}
                constants |= {"unit": None} if dtype != "fp16" else {}
                types = {"x": dtype, "y": dtype, "weights_out": dtype}
                name = f"{asked} {dtype}{' paired' * paired}{' loaded' * loaded}"
                yield name, kernels.tile_kernel, types, constants, options
