# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the similarity family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity import triton_plan as plan
from sslkernels.ops.triton_launch import row_tile

INTEGERS = {
    "n", "m", "d", "x_stride", "y_stride", "total_n", "total_m", "first_row", "first_column",
    "row_programs", "column_programs", "parts", "excluded_count", "more_rows", "more_columns",
}  # fmt: skip
# Each entry says which terms G has, and whose exclusions each term leaves out. The cases are x with itself, dx and dy
# of a rectangle with both sums, and dx and dy with row sums only.
SWEEPS = [
    ("both", True, True), ("both", True, False), ("both", False, True), ("own", True, False), ("other", False, True)
]  # fmt: skip
FLOATS: set[str] = set()
POINTERS = {"exclude": "i64"}
# The kernel lets launches specialise on these integers, but they are rarely multiples of 16.
INDIVISIBLE = {"excluded_count"}


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    table = plan.TABLE[architecture // 10]
    for width, (forward, attend, backward) in table.items():
        for dtype, excluded in (("bf16", 0), ("bf16", 1), ("bf16", 2), ("fp16", 2)) if everything else (("bf16", 2),):
            for columns in (False, True) if everything else (True,):
                yield fused_forward(dtype, width, forward, excluded, columns, False)
            if everything or width == 128:
                yield fused_forward(dtype, width, attend, excluded, False, True)
            for terms, own_lists, other_lists in SWEEPS if everything else SWEEPS[:1]:
                yield fused_backward(dtype, width, backward, excluded, terms, own_lists, other_lists)
    for dtype in ("bf16", "fp32"):
        yield from epilogues(dtype)
        for width in (16, 128, 4096) if everything else (128,):
            yield from finishes(dtype, width)


def fused_forward(dtype: str, width: int, blocks: Any, excluded: int, columns: bool, attend: bool) -> Any:
    constants = {
        "EXCLUDED": excluded, "COLUMNS": columns, "ATTEND": attend, "HEADROOM": 2.0**14 if dtype == "fp16" else 1.0,
        "PRECISION": "ieee", "BLOCK_N": blocks.n, "BLOCK_M": blocks.m, "BLOCK_D": width,
    }  # fmt: skip
    absent = [] if excluded else ["exclude"]
    absent += [] if columns else ["column_peaks", "column_totals"]
    absent += [] if attend else ["attended"]
    name = f"forward {dtype} D={width} E={excluded} columns={columns} attend={attend}"
    return (
        name, kernels.forward_kernel, {"x": dtype, "y": dtype}, {**constants, **dict.fromkeys(absent)},
        {"num_warps": blocks.warps, "num_stages": blocks.stages},
    )  # fmt: skip


def fused_backward(
    dtype: str, width: int, blocks: Any, excluded: int, terms: str, own_lists: bool, other_lists: bool
) -> Any:
    constants = {
        "EXCLUDED": excluded, "OWN_LISTS": own_lists, "OTHER_LISTS": other_lists,
        "PRECISION": "ieee", "BLOCK_N": blocks.n, "BLOCK_M": blocks.m, "BLOCK_D": width,
    }  # fmt: skip
    absent = [] if excluded else ["exclude"]
    absent += {"own": ["other_lse", "other_grad"], "other": ["lse", "grad"], "both": []}[terms]
    return (
        f"backward {dtype} D={width} E={excluded} {terms} {own_lists} {other_lists}", kernels.backward_kernel,
        {"x": dtype, "y": dtype}, {**constants, **dict.fromkeys(absent)},
        {"num_warps": blocks.warps, "num_stages": blocks.stages},
    )  # fmt: skip


def epilogues(dtype: str) -> Iterator[Any]:
    blocks = plan.EPILOGUE
    tile = {"BLOCK_N": blocks.n, "BLOCK_M": blocks.m}
    for exclude in (True, False):
        absent = {} if exclude else {"exclude": None, "excluded_count": 0}
        yield (
            f"chunk_forward exclude={exclude}", kernels.chunk_forward_kernel, {}, {"COLUMNS": True, **tile, **absent},
            {"num_warps": blocks.warps},
        )  # fmt: skip
        yield (
            f"chunk_backward {dtype} exclude={exclude}", kernels.chunk_backward_kernel, {"weights_out": dtype},
            {"SELF": True, **tile, **absent}, {"num_warps": blocks.warps},
        )  # fmt: skip


def finishes(dtype: str, width: int) -> Iterator[Any]:
    size = row_tile(width)
    options = {"num_warps": size.pop("num_warps")}
    yield f"total D={width}", kernels.total_kernel, {}, size, options
    yield f"attended D={width}", kernels.attended_kernel, {}, size, options
    yield f"merge D={width}", kernels.merge_kernel, {}, {"BLOCK": 128}, options
