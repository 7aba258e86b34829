# SPDX-License-Identifier: Apache-2.0
"""Compose the loss of its parts, for backends without a call of its own and for several ranks.

p = z @ slices, sums = sum_n e^(i t_k p_n) over the samples of all ranks, phi_k = sums / N
value = mean over views and slices of N sum_k w_k |phi_k - e^(-t_k^2/2)|^2
d value / d sums = 2 w_k (phi_k - e^(-t_k^2/2)) / (views * slices); dp is its adjoint, dz = dp @ slices^T
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sslkernels.distributed import Shard, summed
from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.sigreg.schema import Views


def loss(
    views: Views,
    need: bool,
    sums: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor, Tensor], Tensor],
    shard: Shard = Shard.alone,
) -> tuple[Tensor, Tensor]:
    z, lines, dtype = views.z, views.slices.to(views.dtype), wide(views.z.dtype)
    m, n, c = z.shape
    p = torch.mm(z.reshape(m * n, c).to(views.dtype), lines).to(dtype).view(m, n, lines.shape[1])
    value, slope = _statistic(summed(sums(p), shard), shard.total(n), views.step)
    value, dz = views.weight * value, p.new_empty(0)
    if need:
        # Gradients averaged over ranks are those of one process. A value that all ranks share gets the sum of what they
        # send back; one that holds parts of each gets its own alone, and each rank counts for all.
        copies = shard.ranks if views.centred else 1
        dp = adjoint(p, slope * (views.weight * copies)).view(m * n, lines.shape[1]).to(gradient_dtype(views))
        dz = torch.mm(dp, lines.to(dp.dtype).T).to(dtype).view(m, n, c)
    if views.centred:
        distance, pull = _distance(views, shard)
        value = value + (1 - views.weight) * distance
        dz = dz + (1 - views.weight) * pull if need else dz
    return value, dz


def gradient_dtype(views: Views) -> torch.dtype:
    """Return the dtype in which gradients of projections are multiplied by the slices.

    It is that of the projections, but float16 ends at 6e-8, and would lose gradients before a scaler multiplies them.
    """
    return torch.float32 if views.dtype == torch.float16 else views.dtype


def _statistic(sums: Tensor, samples: int, step: float) -> tuple[Tensor, Tensor]:
    """Return the value for sums (M, 2, knots, S), and their gradient."""
    t = torch.arange(sums.shape[2], dtype=sums.dtype, device=sums.device) * step
    normal = torch.exp(-t.square() / 2)
    weights = 2 * step * normal  # the factor 2 is there because the integrand is even in t
    weights = torch.cat([weights[:1] / 2, weights[1:-1], weights[-1:] / 2])[:, None]
    gap = sums / samples - torch.stack([normal, torch.zeros_like(normal)])[..., None]
    value = samples * (gap.square() * weights).sum((1, 2)).mean()
    return value, gap * (weights * (2 / (sums.shape[0] * sums.shape[3])))


def _distance(views: Views, shard: Shard) -> tuple[Tensor, Tensor]:
    """Return the mean of (z - centre)^2 and its gradient; the centre is the mean of a sample's first views."""
    z, centred = widened(views.z), views.centred
    share = shard.ranks / (z.shape[0] * shard.total(z.shape[1]) * z.shape[2])
    apart = z - z[:centred].mean(0)
    # We divide before we sum: the mean may fit the range where the sum does not.
    value = (apart * share**0.5).square().sum()
    pull = 2 * share * apart
    pull[:centred] -= pull[centred:].sum(0) / centred
    return value, pull
