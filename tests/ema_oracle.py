# SPDX-License-Identifier: Apache-2.0
"""The moving average in extended precision, tensor by tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def average(target: Tensor, source: Tensor, momentum: float) -> np.ndarray:
    """m t + (1 - m) s in NumPy's long double, whose 64 bits leave double's 53 far behind."""
    t, s = (x.detach().double().numpy().astype(np.longdouble) for x in (target, source))
    m = np.longdouble(momentum)
    return m * t + (1 - m) * s


def worst(now: Tensor, before: Tensor, source: Tensor, momentum: float) -> float:
    """The largest error of an update, in units of eps max(|t|, |s|) per element (of the spacing, where subnormal)."""
    exact = average(before, source, momentum)
    largest = torch.maximum(before.detach().double().abs(), source.detach().double().abs()).numpy()
    kind = torch.finfo(now.dtype)
    error = np.abs(now.detach().double().numpy().astype(np.longdouble) - exact)
    return float((error / (kind.eps * np.maximum(largest, kind.smallest_normal))).max()) if now.numel() else 0.0
