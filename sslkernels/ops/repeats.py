# SPDX-License-Identifier: Apache-2.0
"""Let torch.compile trace a node that is given one tensor twice, such as keys that are values too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def distinct(*inputs: Any) -> tuple[Any, ...]:
    """Return the inputs of an autograd.Function, where it is traced with a view in place of each repeated tensor.

    torch.compile refuses repeated ones. In eager mode they pass, and a view would cost a node.
    """
    if not torch.compiler.is_compiling():
        return inputs
    found: list[Any] = []
    for each in inputs:
        repeated = isinstance(each, Tensor) and any(each is other for other in found)
        found.append(each.view_as(each) if repeated else each)
    return tuple(found)
