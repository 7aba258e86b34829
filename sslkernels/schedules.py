# SPDX-License-Identifier: Apache-2.0
"""Where a training stands, for whatever follows it: the rate of an optimizer, the momentum of a teacher."""

from __future__ import annotations

import math

from sslkernels.arguments import as_number, came, check_size, is_whole


def check_step(function: str, step: object) -> int:
    """The number of an optimizer's step, from 0, as a Python int."""
    return check_size(function, "step", step, least=0)


def check_total(function: str, total_steps: object, least: int = 1) -> float:
    """The steps of a training: a whole number, or ``math.inf`` where no end is known."""
    if is_whole(total_steps, least):
        return check_size(function, "total_steps", total_steps, least)
    if as_number(total_steps) == math.inf:
        return math.inf
    raise ValueError(
        f"{function}: total_steps is {came(total_steps)}; pass a whole number of at least {least}, "
        "or math.inf where no end is known."
    )


def share_done(step: int, total_steps: float) -> float:
    """From 0 at the first step to 1 at the end and ever after; 0 for ever where no end is known."""
    return 1.0 if step >= total_steps else step / total_steps
