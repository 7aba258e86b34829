# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the similarity family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sslkernels.ops.similarity import triton_anchor_kernels as anchors
from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity import triton_plan as plan
from sslkernels.ops.similarity.triton_anchors import finish_tile
from sslkernels.ops.triton_launch import row_tile

INTEGERS = {
    "n", "m", "d", "x_stride", "y_stride", "total_n", "total_m", "first_row", "first_column",
    "row_programs", "column_programs", "parts", "excluded_count", "more_rows", "more_columns", "count", "start", "step",
    "largest_count", "losses_count", "row_state", "column_state", "row_parts", "column_parts", "x_part_rows",
    "y_part_rows", "x_parts", "y_parts",
}  # fmt: skip
# Each entry says which terms G has, and whose exclusions they leave out. The cases are x with itself and any table, dx
# and dy of a rectangle with both sums, and dx and dy with row sums only. Views of x with itself are as the second.
SWEEPS = [("both", "each"), ("both", "rows"), ("both", "columns"), ("own", "rows"), ("other", "columns")]
FLOATS = {"share"}
POINTERS = {"exclude": "i64"}
# The kernel lets launches specialise on these integers, but they are rarely multiples of 16.
INDIVISIBLE = {"excluded_count"}


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    table = plan.TABLE[architecture // 10]
    for width, (forward, attend, backward) in table.items():
        usual = (("bf16", 2, "table"), ("bf16", 2, "views"))
        every = (*usual, ("bf16", 0, ""), ("bf16", 1, "table"), ("bf16", 1, "views"), ("fp16", 2, "table"))
        for dtype, excluded, by in (*every, ("fp16", 2, "views")) if everything else usual:
            for columns in (False, True) if everything else (True,):
                yield fused_forward(dtype, width, forward, excluded, by, columns, False)
            if everything or width == 128:
                yield fused_forward(dtype, width, attend, excluded, by, False, True)
            for terms, lists in SWEEPS if everything else SWEEPS[:2]:
                if (lists == "each") == (by == "table") or (everything and lists != "each"):
                    yield fused_backward(dtype, width, backward, excluded, by, terms, lists)
    yield "largest", kernels.largest_kernel, {}, {"BLOCK": 1024}, {"num_warps": 4}
    yield "sum", anchors.sum_kernel, {}, {}, {"num_warps": 4}
    for dtype in ("bf16", "fp32"):
        yield from epilogues(dtype)
        for width in (16, 128, 4096) if everything else (128,):
            yield from finishes(dtype, width)
            yield from whole_losses(dtype, width)


def fused_forward(dtype: str, width: int, blocks: Any, excluded: int, by: str, columns: bool, attend: bool) -> Any:
    constants = {
        "EXCLUDED": excluded, "COLUMNS": columns, "ATTEND": attend, "ROOM": 2.0**14 if dtype == "fp16" else 1.0,
        "PRECISION": "ieee", "BLOCK_N": blocks.n, "BLOCK_M": blocks.m, "BLOCK_D": width,
    }  # fmt: skip
    absent = [] if by == "table" else ["exclude"]
    absent += [] if columns else ["column_peaks", "column_totals"]
    absent += [] if attend else ["attended"]
    name = f"forward {dtype} D={width} E={excluded} {by} columns={columns} attend={attend}"
    return (
        name, kernels.forward_kernel, {"x": dtype, "y": dtype}, {**constants, **dict.fromkeys(absent)},
        {"num_warps": blocks.warps, "num_stages": blocks.stages},
    )  # fmt: skip


def fused_backward(dtype: str, width: int, blocks: Any, excluded: int, by: str, terms: str, lists: str) -> Any:
    constants = {
        "EXCLUDED": excluded, "LISTS": lists,
        "PRECISION": "ieee", "BLOCK_N": blocks.n, "BLOCK_M": blocks.m, "BLOCK_D": width,
    }  # fmt: skip
    absent = [] if by == "table" else ["exclude"]
    absent += [] if dtype == "fp16" else ["largest", "largest_count"]
    absent += {"own": ["other_lse", "other_grad"], "other": ["lse", "grad"], "both": []}[terms]
    return (
        f"backward {dtype} D={width} E={excluded} {by} {terms} {lists}", kernels.backward_kernel,
        {"x": dtype, "y": dtype}, {**constants, **dict.fromkeys(absent)},
        {"num_warps": blocks.warps, "num_stages": blocks.stages},
    )  # fmt: skip


def epilogues(dtype: str) -> Iterator[Any]:
    blocks = plan.EPILOGUE
    tile = {"BLOCK_N": blocks.n, "BLOCK_M": blocks.m}
    for exclude in (True, False):
        absent = {} if exclude else {"exclude": None}
        yield (
            f"chunk_forward exclude={exclude}", kernels.chunk_forward_kernel, {}, {"COLUMNS": True, **tile, **absent},
            {"num_warps": blocks.warps},
        )  # fmt: skip
        yield (
            f"chunk_backward {dtype} exclude={exclude}", kernels.chunk_backward_kernel, {"weights_out": dtype},
            {"EACH": exclude, "ROOM": 1.0, **tile, **absent}, {"num_warps": blocks.warps},
        )  # fmt: skip


def finishes(dtype: str, width: int) -> Iterator[Any]:
    size = row_tile(width)
    options = {"num_warps": size.pop("num_warps")}
    yield f"total D={width}", kernels.total_kernel, {}, size, options
    yield f"attended D={width}", kernels.attended_kernel, {}, size, options
    yield f"merge D={width}", kernels.merge_kernel, {}, {"BLOCK": 128}, options


def whole_losses(dtype: str, width: int) -> Iterator[Any]:
    """A loss of running sums in both directions, with everything that it can give, and what the ops ask for."""
    size = row_tile(width)
    options = {"num_warps": size.pop("num_warps")}
    types = {"x": dtype, "y": dtype}
    given = dict.fromkeys(("row_totals", "column_totals", "lse", "largest"))
    yield f"weigh {dtype} D={width}", anchors.weigh_kernel, types, size, options
    yield f"weigh lse {dtype} D={width}", anchors.weigh_kernel, types, {**size, **given}, options
    size = finish_tile(width)
    options = {"num_warps": size.pop("num_warps")}
    yield f"finish {dtype} D={width}", anchors.finish_kernel, types, size, options
    absent = dict.fromkeys(("x_by", "x_norms", "y", "y_moved", "y_norms", "dy", "pull", "largest", "losses", "pulled"))
    absent["value"] = None
    yield f"finish one side {dtype} D={width}", anchors.finish_kernel, types, {**size, **absent}, options
