# SPDX-License-Identifier: Apache-2.0
"""Counts the steps of a training, for all that follows them: learning rates and teachers' momenta."""

from __future__ import annotations

import math

from sslkernels.arguments import as_number, came, check_size, is_whole


def check_step(function: str, step: object) -> int:
    """Check the number of an optimizer's step, which counts from 0; the result is a Python int."""
    return check_size(function, "step", step, least=0)


def check_total(function: str, total_steps: object, least: int = 1) -> float:
    """Check the number of steps of a training: a whole number, or ``math.inf`` where no end is known."""
    if is_whole(total_steps, least):
        return check_size(function, "total_steps", total_steps, least)
    if as_number(total_steps) == math.inf:
        return math.inf
    raise ValueError(
        f"{function}: total_steps is {came(total_steps)}; pass a whole number of at least {least}, "
        "or math.inf where no end is known."
    )


def share_done(step: int, total_steps: float) -> float:
    """The share of a training that is done, 0 at the first step and 1 from the end on; without a known end always 0."""
    return 1.0 if step >= total_steps else step / total_steps
