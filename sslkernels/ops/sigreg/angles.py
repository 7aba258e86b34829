# SPDX-License-Identifier: Apache-2.0
"""Prepare the step between knots for kernels that take whole turns off an angle."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch

_TURNS_PER_RADIAN = Fraction("0.159154943091895335768883763372514362034459645740456448747667")


@functools.lru_cache
def turns(step: float, dtype: torch.dtype) -> tuple[float, float, float]:
    """Split ``step / 2 pi`` into a sum of three terms, so that kernels take whole turns off an angle without rounding.

    The first two terms have so few bits that their products with half of a number's bits are exact.

    >>> turns(3 / 16, torch.float32)
    (0.02983856201171875, 2.989545464515686e-06, 2.725471097706306e-10)
    """
    bits = 26 if dtype == torch.float64 else 12
    rest, pieces = Fraction(step) * _TURNS_PER_RADIAN, []
    for _ in range(2):
        unit = Fraction(2) ** (math.frexp(float(rest))[1] - bits)
        piece = rest // unit * unit
        pieces.append(float(piece))
        rest -= piece
    return pieces[0], pieces[1], float(rest)
