# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the correlation family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton.language as tl

from sslkernels.ops.correlation import triton as launcher
from sslkernels.ops.correlation import triton_kernels as kernels

INTEGERS = {
    "n", "d", "height", "width", "depth", "first", "span", "parts", "size", "blocks", "row_blocks", "column_blocks",
    "z0_stride", "z1_stride", "left_stride", "right_stride", "source_stride", "z_stride", "other_stride",
}  # fmt: skip
FLOATS: set[str] = set()
POINTERS = dict.fromkeys(
    ("squares", "products", "gaps", "part_means", "part_squares", "part_products", "part_gaps", "row_parts",
     "column_parts"),
    "fp64",
)  # fmt: skip
INDIVISIBLE: set[str] = set()
DTYPES = {"fp32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}
# Dtypes in which rows are stored and multiplied, and the precision. The side of samples multiplies in float32; on the
# side of features, autocast makes the two dtypes differ.
SAMPLES = [("bf16", "fp32", "tf32"), ("fp32", "fp32", "tf32")]
EVERY_SAMPLES = [*SAMPLES, ("fp32", "fp32", "ieee"), ("fp16", "fp32", "tf32"), ("bf16", "fp32", "ieee")]
FEATURES = [("bf16", "bf16", "ieee"), ("fp32", "fp32", "tf32")]
EVERY_FEATURES = [
    *FEATURES,
    ("fp32", "fp32", "ieee"),
    ("fp16", "fp16", "ieee"),
    ("fp32", "bf16", "tf32"),
    ("fp32", "fp16", "ieee"),
]


def variants(
    architecture: int, everything: bool
) -> Iterator[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]]:
    for samples, usual, every in ((True, SAMPLES, EVERY_SAMPLES), (False, FEATURES, EVERY_FEATURES)):
        kinds = [kind for kind, (of_samples, _, _) in BACKWARDS.items() if of_samples == samples]
        for stored, dtype, precision in every if everything else usual:
            how = f"{stored} {dtype} {precision}"
            for symmetric in (True, False):
                yield matrix(
                    f"{how} samples={samples} symmetric={symmetric}", stored, dtype, precision, samples, symmetric
                )
            for kind in kinds if everything else kinds[:2]:
                yield backward(f"{how} {kind}", stored, dtype, precision, kind)
    # The rows of all ranks come standardised.
    yield matrix("all ranks", "fp32", "fp32", "tf32", True, False, standardised=True)
    for stored in ("bf16", "fp32"):
        yield from moments(stored)
        yield from finish(stored, everything)
    block, warps = launcher.SAMPLE_ENERGIES
    yield "sample_energies", kernels.sample_energies_kernel, {}, {"BLOCK": block}, {"num_warps": warps}
    block_n, block_m, warps = launcher.FEATURE_ENERGIES
    for cross in (True, False):
        yield (
            f"feature_energies cross={cross}", kernels.feature_energies_kernel, {},
            {"BLOCK_N": block_n, "BLOCK_M": block_m, **({} if cross else {"column_parts": None})}, {"num_warps": warps},
        )  # fmt: skip


def product(dtype: str, precision: str, which: int) -> tuple[Any, dict[str, Any], dict[str, int]]:
    """Return blocks of the matrix (0) or of the backward (1), the constants that both have, and launch options."""
    blocks = launcher.TABLE[precision if dtype == "fp32" else "16"][which]
    constants = {"DTYPE": DTYPES[dtype], "PRECISION": precision, "BLOCK_N": blocks.n, "BLOCK_K": blocks.k}
    return blocks, constants, {"num_warps": blocks.warps, "num_stages": blocks.stages}


def matrix(
    name: str, stored: str, dtype: str, precision: str, samples: bool, symmetric: bool, standardised: bool = False
) -> Any:
    blocks, constants, options = product(dtype, precision, 0)
    absent = ("left_mean", "left_scale", "right_mean", "right_scale") if standardised else ()
    constants |= {"SAMPLES": samples, "SYMMETRIC": symmetric, "BLOCK_M": blocks.m, **dict.fromkeys(absent)}
    return f"matrix {name}", kernels.matrix_kernel, {"left": stored, "right": stored}, constants, options


# The side (True for samples), whether the matrix is transposed, and which arguments are None. The cases are VICReg and
# Barlow Twins on samples, each view of Barlow Twins on features, VICReg there, a single view, and a rank's part.
BACKWARDS: dict[str, tuple[bool, bool, tuple[str, ...]]] = {
    "each": (True, False, ("mixed", "sums")),
    "through": (True, False, ()),
    "features": (False, True, ("sums",)),
    "second": (False, False, ("sums",)),
    "each features": (False, False, ("mixed", "sums")),
    "alone": (True, False, ("other", "other_mean", "other_scale", "mixed", "pull", "sums")),
    "ranks": (
        True, False,
        ("source_mean", "source_scale", "other", "mean", "other_mean", "scale", "other_scale", "outer", "own",
         "mixed", "pull", "sums"),
    ),
}  # fmt: skip


def backward(name: str, stored: str, dtype: str, precision: str, kind: str) -> Any:
    blocks, constants, options = product(dtype, precision, 1)
    samples, transposed, absent = BACKWARDS[kind]
    constants |= {"SAMPLES": samples, "TRANSPOSED": transposed, "BLOCK_D": blocks.m, **dict.fromkeys(absent)}
    if dtype != "fp16":
        constants["unit"] = None
    rows = dict.fromkeys(("source", "z", "other"), stored)
    out = "fp32" if kind == "through" else stored
    return f"backward {name}", kernels.backward_kernel, {**rows, "out": out}, constants, options


def moments(stored: str) -> Iterator[Any]:
    block_n, block_d, warps = launcher.MOMENTS
    rows = {"z0": stored, "z1": stored}
    for views in (1, 2):
        absent = {"z1": None, "products": None, "gaps": None} if views == 1 else {}
        yield (
            f"moments {stored} views={views}", kernels.moments_kernel, {**rows, "means": "fp64"},
            {"CENTRE": True, "WHOLE": False, "BLOCK_N": block_n, "BLOCK_D": block_d, **absent}, {"num_warps": warps},
        )  # fmt: skip
        absent |= {"part_products": None, "part_gaps": None} if views == 1 else {}
        yield (
            f"merge {stored} views={views}", kernels.merge_kernel, rows, {"CENTRE": True, "BLOCK": 128, **absent},
            {"num_warps": 4},
        )  # fmt: skip


def finish(stored: str, everything: bool) -> Iterator[Any]:
    rows, (size, warps) = dict.fromkeys(("z", "other", "dz"), stored), launcher.FINISH
    for block_d in (16, 256) if everything else (256,):
        for da in (True, False):
            constants = {"BLOCK_N": size // block_d, "BLOCK_D": block_d, **({} if da else {"da": None, "outer": None})}
            yield f"finish {stored} D={block_d} da={da}", kernels.finish_kernel, rows, constants, {"num_warps": warps}
