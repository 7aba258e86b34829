# SPDX-License-Identifier: Apache-2.0
"""LeJEPA's loss as one differentiable number, whose gradient comes with it; slices are constants."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.dtypes import compute_dtype
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.sigreg import composed
from sslkernels.ops.sigreg import schema as sigreg
from sslkernels.ops.sigreg.schema import SIGREG, Views


def sketched(
    z: Tensor, slices: Tensor, step: float, knots: int, centred: int, weight: float, shard: Shard, backend: str | None
) -> Tensor:
    """Return the loss of the samples of all ranks; see `Views`.

    What is asked of projections is the same number on every rank. Of the distance from the mean each rank returns its
    part, times the number of ranks, and ranks must weigh such a loss alike.
    """
    chosen = SIGREG.choose(z.device, z.dtype, backend)
    asked = _Asked(compute_dtype(z), step, knots, centred, weight, shard, chosen)
    return in_one_call(_computed, asked, z, slices.detach(), alike=Shard.alone if centred else shard)


class _Asked(NamedTuple):
    dtype: torch.dtype
    step: float
    knots: int
    centred: int
    weight: float
    shard: Shard
    backend: str


def _computed(asked: _Asked, needs: tuple[bool, ...], z: Tensor, slices: Tensor) -> Any:
    dtype, step, knots, centred, weight, shard, backend = asked
    views = Views(z, slices, dtype, step, knots, centred, weight)
    if shard.ranks == 1:
        value, dz = sigreg.loss(views, needs[0], backend)
    else:
        with torch.autocast(z.device.type, enabled=False):
            value, dz = composed.loss(
                views,
                needs[0],
                lambda p: sigreg.sums(p, step, knots, backend),
                lambda p, grad: sigreg.adjoint(p, grad, step, backend),
                shard,
            )
    return value, dz, None
