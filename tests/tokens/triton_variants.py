# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the tokens family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from sslkernels.ops.tokens import triton as launcher
from sslkernels.ops.tokens import triton_kernels as kernels
from sslkernels.ops.triton_launch import Area

INTEGERS = {
    "samples", "batch", "n", "length", "kept", "keep", "prefix", "channels", "pixels", "height", "width", "correction",
    "sample_stride", "row_stride", "index_stride", "tokens", "pred_sample", "pred_row", "target_sample", "target_row",
    "parts", "row_blocks", "column_blocks", "column_programs",
}  # fmt: skip
POINTERS = {"ids_keep": "i64", "ids_restore": "i64"}
FLOATS = {"eps", "beta"}
INDIVISIBLE: set[str] = set()
# The dtypes of tokens and output: a gradient has the dtype of the tokens, a sum with positions is float32.
USUAL = (("bf16", "bf16", "i64"), ("fp32", "fp32", "i64"))
EVERY = (*USUAL, ("fp16", "fp16", "i32"), ("bf16", "fp32", "i32"))


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    for channels in (16, 256) if everything else (256,):
        for x, out, index in EVERY if everything else USUAL:
            types, name = {"x": x, "out": out, "index": index}, f"{x} {out} {index} C={channels}"
            yield from gathers(name, types, channels)
            yield from collects(name, types, channels)
            yield sums(name, types, channels)
        for pred, target in (("bf16", "bf16"), ("fp32", "fp32"), ("bf16", "fp32"), ("fp32", "fp16")):
            yield from errors(
                f"{pred} {target} C={channels}", {"pred": pred, "target": target, "dpred": pred}, channels
            )
    for keys in ("fp32", "bf16"):
        yield ranks(keys)
    for images, patch in (("bf16", 16), ("fp32", 14)):
        yield patches(images, patch)


def tile(area: Area, channels: int, rows: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return compile-time constants and launch options."""
    block, width = launcher._tile(area, channels)
    return {rows: block, "BLOCK_C": width}, {"num_warps": area.warps}


def gathers(name: str, types: dict[str, str], channels: int) -> Iterator[Any]:
    """Yield a plain gather, one with positions by the source, and the one that MAE's decoder reads."""
    tiles, options = tile(launcher.MOVE, channels, "BLOCK_T")
    for by_place, absent in ((False, ("fill", "pos")), (False, ("fill",)), (True, ())):
        constants = {"BY_PLACE": by_place, **dict.fromkeys(absent), **tiles}
        yield f"gather {name} by_place={by_place} without {absent}", kernels.gather_kernel, types, constants, options


def collects(name: str, types: dict[str, str], channels: int) -> Iterator[Any]:
    block_s, block_k, warps = launcher.COLLECT
    tiles = {"HELD": launcher.HELD, "BLOCK_S": block_s, "BLOCK_K": block_k, "BLOCK_C": launcher._width(channels)}
    for strict, fill in product((False, True), repeat=2):
        constants = {"STRICT": strict, **({} if fill else {"fill": None}), **tiles}
        yield (
            f"collect {name} strict={strict} fill={fill}", kernels.collect_kernel, types, constants,
            {"num_warps": warps, "maxnreg": launcher.REGISTERS},
        )  # fmt: skip


def sums(name: str, types: dict[str, str], channels: int) -> Any:
    tiles, options = tile(launcher.SUMS, channels, "BLOCK_N")
    return f"sums {name}", kernels.sums_kernel, {**types, "out": "fp32"}, tiles, options


def errors(name: str, types: dict[str, str], channels: int) -> Iterator[Any]:
    tiles, options = tile(launcher.ERRORS, channels, "BLOCK_N")
    for squares, norm, absent in product((True, False), (True, False), ((), ("grad",), ("grad", "dpred"))):
        constants = {"NORM": norm, "SQUARES": squares, **dict.fromkeys(absent), **tiles}
        yield (
            f"errors {name} norm={norm} squares={squares} without {absent}", kernels.errors_kernel,
            types, constants, {**options, "maxnreg": launcher.REGISTERS},
        )  # fmt: skip


def ranks(keys: str) -> Any:
    block_n, block_m, warps = launcher.RANKS
    return (
        f"ranks {keys}", kernels.ranks_kernel, {"keys": keys}, {"BLOCK_N": block_n, "BLOCK_M": block_m},
        {"num_warps": warps},
    )  # fmt: skip


def patches(images: str, patch: int) -> Any:
    tiles, options = tile(launcher.MOVE, 3 * patch * patch, "BLOCK_T")
    types = {"images": images, "out": images, "index": "i64"}
    return f"patches {images} P={patch}", kernels.patches_kernel, types, {"PATCH": patch, **tiles}, options
