# SPDX-License-Identifier: Apache-2.0
"""Run the prototypes family on the Triton kernels of attention and similarity."""

from __future__ import annotations

from torch import Tensor

from sslkernels.ops.prototypes import composed, reference
from sslkernels.ops.prototypes.schema import Prototypes


def compare(
    prototypes: Prototypes, need_student: bool, need_weight: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return composed.compare(prototypes, need_student, need_weight, need_scale, "triton")


def products(rows: Tensor, weight: Tensor) -> Tensor:
    return reference.products(rows, weight)


def columns(
    rows: Tensor, weight: Tensor, scale: Tensor, counts: Tensor | None, bias: Tensor | None, table: Tensor | None
) -> Tensor:
    return composed.columns(rows, weight, scale, counts, bias, "triton")
