# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the similarity family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sslkernels.ops import triton_times_kernels as node
from sslkernels.ops.similarity import triton_anchor_kernels as anchors
from sslkernels.ops.similarity import triton_anchors, triton_parts
from sslkernels.ops.similarity import triton_fused_kernels as fused
from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity import triton_plan as plan
from sslkernels.ops.similarity import triton_tile_kernels as tiles
from sslkernels.ops.triton_launch import row_tile

INTEGERS = {
    "n", "m", "d", "x_stride", "y_stride", "out_stride", "out_d", "total_n", "total_m", "first_row", "first_column",
    "column_programs", "parts", "listed", "count", "start", "step", "largest_count", "losses_count", "row_state",
    "column_state", "row_parts", "column_parts", "x_part_rows", "y_part_rows", "x_parts", "y_parts", "first_size",
    "second_size", "third_size", "fourth_size",
}  # fmt: skip
FLOATS = {"share"}
POINTERS = {"exclude": "i64", "row_labels": "i64", "column_labels": "i64", "arrived": "i32"}
# The kernels let launches specialise on all other integers.
INDIVISIBLE: set[str] = set()

Variant = tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]


def variants(architecture: int, everything: bool) -> Iterator[Variant]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    sums, weights, by_width = plan.TABLE[architecture // 10]
    for dtype in ("bf16", "fp16") if everything else ("bf16",):
        rules = ("nothing", "one view", "two views", "table", "labels", "bias and labels")
        for left_out in rules if everything else ("one view", "two views", "bias and labels"):
            for triangle in (False,) if left_out in ("table", "bias and labels") else (False, True):
                yield from of_tiles(dtype, sums, weights, left_out, triangle, False)
        for width, blocks in by_width.items():
            yield from of_fused(dtype, width, blocks, everything)
    for left_out in ("two views", "table", "bias and labels"):
        yield from of_tiles("fp32", plan.LOADED, plan.LOADED, left_out, left_out == "two views", True)
    yield "largest", kernels.largest_kernel, {}, {"BLOCK": 1024}, {"num_warps": 4}
    yield "sum", anchors.sum_kernel, {}, {}, {"num_warps": 4}
    merge = triton_parts.MERGE
    yield "merge", kernels.merge_kernel, {}, {"BLOCK": merge.columns, "PARTS": merge.rows}, {"num_warps": merge.warps}
    outputs = {"first_out": "bf16", "second_out": "bf16", "third_out": "fp32", "fourth_out": "fp32"}
    yield "times", node.times_kernel, outputs, {"BLOCK": 4096}, {"num_warps": 8}
    for dtype in ("bf16", "fp32"):
        for width in (16, 128, 4096) if everything else (128,):
            yield from finishes(width)
            yield from whole_losses(dtype, width)


def of_tiles(
    dtype: str, sums: plan.Tile, weights: plan.Tile, left_out: str, triangle: bool, loaded: bool
) -> Iterator[Variant]:
    """The sums and the weights of tiles; ``loaded`` ones hold products."""
    views = {"one view": 1, "two views": 2}.get(left_out, 0)
    absent: dict[str, Any] = {} if left_out == "table" else {"exclude": None}
    absent |= {} if left_out.startswith("bias") else {"bias": None}
    absent |= {} if left_out.endswith("labels") else {"row_labels": None, "column_labels": None}
    absent |= {"y": None} if loaded else {}
    name = f"{dtype} {left_out}{' triangle' * triangle}{' loaded' * loaded}"
    types = {"x": "fp32" if loaded else dtype, "y": dtype, "weights_out": dtype}
    for of, kernel, tile in (("sums", tiles.tile_sums_kernel, sums), ("weights", tiles.tile_weights_kernel, weights)):
        launch = plan.tile(tile)
        options = {key: launch.pop(key) for key in ("num_warps", "num_stages")}
        constants = {**launch, **absent, "VIEWS": views, "ALIKE": True}
        if of == "sums":
            yield f"sums {name}", kernel, types, {**constants, "TRIANGLE": triangle, "APART": True}, options
            rows = dict.fromkeys(("column_peaks", "column_totals"))
            if not triangle:
                more = {**rows, "TRIANGLE": False, "APART": True}
                yield f"sums of rows {name}", kernel, types, {**constants, **more}, options
            continue
        if views == 0:
            options = {**options, "num_warps": 8}
        more = {"MIRROR": triangle, "ROOM": 1.0}
        if dtype != "fp16":
            more |= dict.fromkeys(("largest", "largest_count"))
        yield f"weights {name}", kernel, types, {**constants, **more}, options
        alone = dict.fromkeys(("grad", "other_lse", "other_grad"))
        if not triangle:
            yield f"weights of rows {name}", kernel, types, {**constants, **more, **alone}, options


def of_fused(dtype: str, width: int, blocks: plan.Blocks, everything: bool) -> Iterator[Variant]:
    launch = plan.fused_tile(blocks, width)
    options = {key: launch.pop(key) for key in ("num_warps", "num_stages")}
    types = {"x": dtype, "y": dtype}
    given = {} if dtype == "fp16" else dict.fromkeys(("largest", "largest_count"))
    terms = {"both": (), "own": ("other_lse", "other_grad"), "other": ("lse", "grad")}
    for views in (0, 1, 2) if everything else (0, 2):
        room = 2.0**14 if dtype == "fp16" else 1.0
        yield (
            f"attend {dtype} D={width} views={views}", fused.attend_kernel, types,
            {**launch, "VIEWS": views, "ROOM": room}, options,
        )  # fmt: skip
        for named, absent in terms.items() if everything else list(terms.items())[:1]:
            constants = {**launch, **given, **dict.fromkeys(absent), "VIEWS": views}
            yield f"move {dtype} D={width} views={views} {named}", fused.move_kernel, types, constants, options


def finishes(width: int) -> Iterator[Variant]:
    size = row_tile(width)
    options = {"num_warps": size.pop("num_warps")}
    yield f"total D={width}", kernels.total_kernel, {}, size, options
    rows, features = triton_parts.ATTENDED.sides(width, widest=64)
    size = {"BLOCK_N": rows, "BLOCK_D": features, "PARTS": 8}
    yield f"attended D={width}", kernels.attended_kernel, {}, size, {"num_warps": triton_parts.ATTENDED.warps}


def whole_losses(dtype: str, width: int) -> Iterator[Variant]:
    """A loss of running sums in both directions, with everything that it can give, and what the ops ask for."""
    rows, features = triton_anchors.WEIGH.sides(width, widest=128)
    size = {"BLOCK_N": rows, "BLOCK_D": features, "PARTS": 16}
    options, types = {"num_warps": triton_anchors.WEIGH.warps}, {"x": dtype, "y": dtype}
    given = dict.fromkeys(("row_totals", "column_totals", "lse", "largest", "arrived"))
    yield f"weigh {dtype} D={width}", anchors.weigh_kernel, types, size, options
    yield f"weigh lse {dtype} D={width}", anchors.weigh_kernel, types, {**size, **given}, options
    size = triton_anchors.finish_tile(width)
    options = {"num_warps": size.pop("num_warps"), "maxnreg": triton_anchors.REGISTERS}
    yield f"finish {dtype} D={width}", anchors.finish_kernel, types, size, options
    absent = dict.fromkeys(("x_by", "x_norms", "y", "y_moved", "y_norms", "dy", "pull", "largest", "losses", "pulled"))
    absent |= dict.fromkeys(("value", "scale_grad", "arrived"))
    yield f"finish one side {dtype} D={width}", anchors.finish_kernel, types, {**size, **absent}, options
