# SPDX-License-Identifier: Apache-2.0
"""Measure how diverse directions are: the energy of rows that repel each other on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_module, check_number
from sslkernels.evaluation.moments import BLOCK, features

# Distances below this lose digits where they are computed from products.
NEAR = 1e-3
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def hyperspherical_energy(w: Tensor, s: float = 0.0) -> float:
    """Measure how diverse rows are (minimum hyperspherical energy, Liu et al. 2018): the lower, the more evenly spread.

    The mean over pairs of different rows of ``|w_i - w_j|^-s``, of rows scaled to norm 1, and of ``-log |w_i - w_j|``
    at ``s=0``. The authors sum over pairs; the mean compares layers of different widths.

    Args:
        w: rows ``(N, D)``, ``N >= 2``: features, or the filters of a layer, flattened (see `layer_energies`).
        s: how much near rows weigh more, a number of at least 0.

    Returns:
        The energy: infinite where two rows have the same direction. Rows of zeros have none and are left out; NaN where
        fewer than two are left, or a number is not finite. Rows spread at random over a sphere of many dimensions have
        about ``2^(-s/2)``, and ``-log(2) / 2 = -0.347`` at ``s=0``.

    Cost: ``2*N^2*D`` operations in float64, ``O(N*D)`` memory and a block of 2^21 pairs. The distances of pairs nearer
    than 1e-3 are computed once more, from differences.

    >>> import torch
    >>> from sslkernels.evaluation import hyperspherical_energy
    >>> round(hyperspherical_energy(torch.eye(3)), 4)
    -0.3466
    """
    rows = features("hyperspherical_energy", "w", w, least=2)
    s = check_number("hyperspherical_energy", "s", s, least=0)
    return _energy(rows, s)


def layer_energies(module: nn.Module, s: float = 0.0) -> dict[str, float]:
    """Measure the `hyperspherical_energy` of each linear and convolutional layer by name; the rows are its filters.

    Layers of a single filter have no pair and are left out.

    >>> import torch
    >>> from sslkernels.evaluation import layer_energies
    >>> list(layer_energies(torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())))
    ['0']
    """
    check_module("layer_energies", "module", module)
    s = check_number("layer_energies", "s", s, least=0)
    found = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, LAYERS + TRANSPOSED):
            continue
        weight = layer.weight.detach()
        filters = (weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else weight).flatten(1)
        if len(filters) > 1:
            found[name] = _energy(filters, s)
    return found


def _energy(w: Tensor, s: float) -> float:
    rows = w.double()
    rows = rows[(rows != 0).any(1)]
    rows = rows / rows.abs().amax(1, keepdim=True)  # no square leaves the range of its dtype
    rows = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    count = len(rows)
    if count < 2 or not rows.isfinite().all():
        return float("nan")
    total, start = rows.new_zeros(()), 0
    for part in rows.split(max(1, BLOCK // count)):
        apart = _distances(part, rows)
        own = torch.arange(len(part), device=rows.device)
        apart[own, start + own] = torch.inf if s else 1  # a row and itself add exactly 0
        total += (-apart.log() if s == 0 else apart.pow(-s)).sum()
        start += len(part)
    return float(total / (count * (count - 1)))


def _distances(part: Tensor, rows: Tensor) -> Tensor:
    apart = torch.cdist(part, rows, compute_mode="use_mm_for_euclid_dist")
    for pairs in (apart < NEAR).nonzero().split(max(1, BLOCK // rows.shape[1])):
        i, j = pairs.T
        apart[i, j] = torch.linalg.vector_norm(part[i] - rows[j], dim=1)
    return apart
