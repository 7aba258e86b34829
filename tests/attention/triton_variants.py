# SPDX-License-Identifier: Apache-2.0
"""List the Triton kernels of the attention family for triton_compile.py to compile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from sslkernels.ops.attention import triton_kernels as kernels
from sslkernels.ops.attention.triton import BACKWARD, FORWARD, backward_size, forward_size

INTEGERS = {
    "n", "m", "d", "dv", "out_d", "out_dv", "query_stride", "keys_stride", "values_stride", "x_stride", "y_stride",
    "x_by_stride", "y_by_stride", "listed", "parts", "slices",
}  # fmt: skip
FLOATS: set[str] = set()
POINTERS = {"exclude": "i64"}
INDIVISIBLE = {"out_d", "out_dv"}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

Variant = tuple[str, Any, dict[str, str], dict[str, Any], dict[str, int]]


def variants(architecture: int, everything: bool) -> Iterator[Variant]:
    """Yield name, kernel, pointer types, compile-time constants and launch options."""
    for dtype in DTYPES if everything else ("bf16",):
        for d, dv in ((16, 16), (64, 64), (128, 256), (512, 1)) if everything else ((128, 256),):
            for absent in ({}, {"bias": None, "exclude": None}) if everything else ({"exclude": None},):
                yield from of_kernels(dtype, d, dv, absent)


def of_kernels(dtype: str, d: int, dv: int, absent: dict[str, None]) -> Iterator[Variant]:
    of, name = DTYPES[dtype], f"{dtype} D={d} Dv={dv}{' plain' * ('bias' in absent)}"
    size = forward_size(FORWARD[of], of, d, dv)
    options = {key: size.pop(key) for key in ("num_warps", "num_stages", "maxnreg")}
    types = dict.fromkeys(("query", "keys", "values"), dtype)
    yield f"attend {name}", kernels.attend_kernel, types, {**size, **absent}, options
    size = backward_size(BACKWARD[of], of, d, dv)
    options = {key: size.pop(key) for key in ("num_warps", "num_stages", "maxnreg")}
    grad = "bf16" if dtype == "bf16" else "fp32"
    outputs = ("moved_out", "by_out", "bias_out")
    for own, wanted in ((True, (1, 0, 0)), (False, (1, 1, 1)), (False, (0, 1, 0))):
        x_by, y_by = (grad, dtype) if own else (dtype, grad)
        types = {"x": dtype, "y": dtype, "x_by": x_by, "y_by": y_by}
        frozen = {output: None for output, want in zip(outputs, wanted, strict=True) if not want}
        side = "queries" if own else "keys" if all(wanted) else "values"
        yield f"pull {side} {name}", kernels.pull_kernel, types, {**size, **absent, **frozen, "OWN": own}, options
