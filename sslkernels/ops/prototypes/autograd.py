# SPDX-License-Identifier: Apache-2.0
"""Give the cross-entropy over prototypes one node, which has its gradient with its value."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.prototypes.schema import PROTOTYPES, Prototypes, compare


def compared(prototypes: Prototypes, backend: str | None) -> Tensor:
    """Return the sum of share times cross-entropy; student, weight and scale get a gradient."""
    chosen = PROTOTYPES.choose(prototypes.student.device, prototypes.student.dtype, backend)
    return in_one_call(_computed, chosen, *prototypes)


def _computed(backend: str, needs: tuple[bool, ...], *inputs: Any) -> tuple[Any, ...]:
    need_student, need_weight, _, _, need_scale, *_ = needs
    value, dstudent, dweight, dscale = compare(Prototypes(*inputs), need_student, need_weight, need_scale, backend)
    return value, dstudent, dweight, None, None, dscale, None, None, None, None
