# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the correlation family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton.language as tl

from sslkernels.ops.correlation import triton as launcher
from sslkernels.ops.correlation import triton_kernels as kernels
from sslkernels.ops.correlation import triton_loss, triton_steps
from sslkernels.ops.correlation import triton_loss_kernels as loss_kernels

INTEGERS = {
    "n", "d", "height", "width", "depth", "first", "span", "parts", "size", "blocks", "row_blocks", "column_blocks",
    "z0_stride", "z1_stride", "left_stride", "right_stride", "source_stride", "z_stride", "other_stride", "left_step",
    "right_step", "tiles",
}  # fmt: skip
FLOATS = {
    "eps", "gap", "agreement", "hinge", "hinge_eps", "g_off", "factor", "shrink", "grow", "twice_gap",
}  # fmt: skip
POINTERS = dict.fromkeys(
    ("squares", "products", "gaps", "part_means", "part_squares", "part_products", "part_gaps", "row_parts",
     "column_parts", "largest", "terms", "taken"),
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
            {
                "BLOCK_N": block_n, "BLOCK_M": block_m, "sums": None, "rounded": None,
                **({} if cross else {"column_parts": None}),
            },
            {"num_warps": warps},
        )  # fmt: skip
    for stored, dtype in LOSSES if everything else LOSSES[:2]:
        yield from loss(stored, dtype, everything)


def product(dtype: str, precision: str, which: int) -> tuple[Any, dict[str, Any], dict[str, int]]:
    """Return blocks of the matrix (0) or of the backward (1), the constants that both have, and launch options."""
    blocks = triton_steps.TABLE[precision if dtype == "fp32" else "16"][which]
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
    block_n, block_d, warps = triton_steps.MOMENTS
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


# Dtypes in which rows are stored, and their columns multiplied.
LOSSES = [("bf16", "bf16"), ("fp32", "fp32"), ("fp16", "fp16"), ("fp32", "bf16")]


def loss(stored: str, dtype: str, everything: bool) -> Iterator[Any]:
    """Barlow Twins, VICReg and a single view of it, on both sides, at D = 8192."""
    rows = dict.fromkeys(("z0", "z1"), stored)
    for name, cross, views in (("crossed", True, 2), ("each", False, 2), ("alone", False, 1)):
        if name == "alone" and not everything:
            continue
        one = {"z1": None, "part_products": None, "part_gaps": None} if views == 1 else {}
        how = {"CROSS": cross, "SCALED": cross, "UNBIASED": 0, "OUTSIDE": False, "HINGE": not cross}
        lift = triton_loss.LIFT if dtype == "fp16" else 1.0
        units = {"SCALED": cross, "LIFT": lift, "BLOCKS": 64}
        label = f"{stored} {dtype} {name}"
        split = dtype != "fp32" and not cross
        yield (
            f"columns {label}", loss_kernels.columns_kernel, {**rows, "diagonal": "fp64"},
            {**how, "BLOCK": triton_loss.COLUMNS, **one}, {"num_warps": 4},
        )  # fmt: skip
        tile = triton_loss.ENERGIES
        blocks = {"BLOCK_N": tile.rows, "BLOCK_M": tile.columns}
        rounded: dict[str, Any] = {"rounded": None} if dtype == "fp32" else {}
        absent = dict.fromkeys(("rounded", "diagonal") if dtype == "fp32" else ())
        yield (
            f"samples {label}", loss_kernels.samples_kernel, {"sums": "fp64", "rounded": dtype},
            {"CROSS": cross, "VIEWS": views, "SPLIT": split, **blocks, **absent}, {"num_warps": tile.warps},
        )  # fmt: skip
        yield (
            f"features {label}", kernels.feature_energies_kernel, {"sums": "fp64", "rounded": dtype},
            {**blocks, **rounded, **({} if cross else {"column_parts": None})}, {"num_warps": tile.warps},
        )  # fmt: skip
        second: dict[str, Any] = {"z1": None} if views == 1 else {}
        for samples in (True, False):
            tile = triton_loss.STANDARDISE
            yield (
                f"standardise {label} samples={samples}", loss_kernels.standardise_kernel,
                {**rows, "columns": dtype, "diagonal": "fp64"},
                {"CROSS": cross, "SPLIT": split and samples, **units, **second, "BLOCK_N": tile.rows,
                 "BLOCK_D": tile.columns, **({} if samples else {"diagonal": None})},
                {"num_warps": tile.warps},
            )  # fmt: skip
            tile = triton_loss.SLOPES
            needs = {"NEED0": True, "NEED1": views == 2}
            of_side = dict.fromkeys(("row_parts", "column_parts") if samples else ("taken",))
            kept = {} if samples and dtype != "fp32" else {"matrix_diagonal": None}
            yield (
                f"slopes {label} samples={samples}", loss_kernels.slopes_kernel,
                {**rows, "diagonal": "fp64", "sums": "fp64", "value": "fp32"},
                {**how, **units, **second, **needs, **of_side, **kept, "DTYPE": DTYPES[dtype],
                 "BLOCK": triton_loss.SUMS, "BLOCK_N": tile.rows, "BLOCK_D": tile.columns},
                {"num_warps": tile.warps},
            )  # fmt: skip
            block_n, block_d = triton_loss.GRADIENTS.sides(8192)
            yield (
                f"gradients {label} samples={samples}", loss_kernels.gradients_kernel, rows,
                {"ENERGY": True, "SAMPLES": samples, "CROSS": cross, **units, **second, **needs, **kept,
                 "PULL": name == "each", "DTYPE": DTYPES[dtype], "BLOCK_N": block_n, "BLOCK_D": block_d},
                {"num_warps": triton_loss.GRADIENTS.warps},
            )  # fmt: skip
