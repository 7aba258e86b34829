# SPDX-License-Identifier: Apache-2.0
"""Sums of softplus over all pairs and their gradient in NumPy's float64, pair by pair and without autograd."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Exact(NamedTuple):
    """Hold the sum of each row, and the gradient of the weighted sums."""

    sums: Tensor
    dx: Tensor
    dy: Tensor
    dscale: Tensor
    dbias: Tensor


def exact(x: Tensor, y: Tensor, scale: float, bias: float, weights: Tensor, paired: bool = False) -> Exact:
    """Where rows are ``paired``, the logit of row i and row i has the other sign."""
    rows, keys = (z.detach().double().numpy() for z in (x, y))
    given = weights.detach().double().numpy()
    products = np.einsum("nd,md->nm", rows, keys)
    sign = np.ones_like(products)
    if paired:
        np.fill_diagonal(sign, -1.0)
    logits = sign * (scale * products + bias)
    slopes = given[:, None] * sign / (1 + np.exp(-logits))
    found = (
        np.logaddexp(0.0, logits).sum(1), scale * slopes @ keys, scale * slopes.T @ rows, (slopes * products).sum(),
        slopes.sum(),
    )  # fmt: skip
    return Exact(*(torch.as_tensor(each, dtype=torch.float64) for each in found))
