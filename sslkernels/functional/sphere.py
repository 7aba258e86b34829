# SPDX-License-Identifier: Apache-2.0
"""Measure rows on the sphere: how close pairs are, and how evenly all are spread (Wang and Isola 2020)."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import REDUCTIONS, check_choice, check_number, check_pair, check_rows
from sslkernels.distributed import GroupLike
from sslkernels.functional.similarity import computed, sharded
from sslkernels.ops.dtypes import promoted
from sslkernels.ops.similarity.sphere import distances, spread


def uniformity(z: Tensor, t: float = 2.0, *, group: GroupLike = None, backend: str | None = None) -> Tensor:
    """Spread rows evenly (Wang and Isola 2020, eq. 2): the log of the mean over pairs of ``e^(-t |z_i - z_j|^2)``.

    Args:
        z: rows ``(N, D)``, at least two in all; the authors' have norm 1, and are used as given here.
        t: how fast a pair's part falls with its distance, a positive number.
        group: ranks whose rows count too; all of them return the same value, that of the concatenated batch. ``None``
            never communicates; ``"world"`` is every rank. Ranks may hold different N.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows).

    Cost: ``4*N^2*D`` operations for value and gradient, 2 for the value alone; ``O(N*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.uniformity(torch.eye(3)).round(decimals=4)
    tensor(-4.)
    """
    check_rows("uniformity", "z", z)
    t = check_number("uniformity", "t", t, above=0.0)
    (z,) = computed(z)
    shard = sharded(group, "uniformity", z, t=t)
    if shard.total(z.shape[0]) < 2:
        raise ValueError("uniformity: there is one row alone, and no pair; pass at least two rows.")
    return spread(z, t, shard, backend)


def alignment(
    z0: Tensor,
    z1: Tensor,
    power: float = 2.0,
    *,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Bring pairs together (Wang and Isola 2020, eq. 1): the mean over rows of ``|z0_i - z1_i|^power``.

    Args:
        z0, z1: ``(N, D)``, ``N >= 1``; row i of one matches row i of the other. They are used as given.
        power: a positive number; the authors' alpha.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.
        group: ranks over which the mean is taken, as in `byol_loss`.
        backend: checked as elsewhere; all of them run the same few operations of PyTorch.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``. Pairs without distance get no gradient.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.alignment(torch.eye(2), torch.eye(2).flip(0))
    tensor(2.0000)
    """
    check_pair("alignment", {"z0": z0, "z1": z1}, gathered=group is not None)
    power = check_number("alignment", "power", power, above=0.0)
    check_choice("alignment", "reduction", reduction, REDUCTIONS)
    z0, z1 = promoted(z0, z1)
    shard = sharded(group, "alignment", z0, z1, power=power, reduction=reduction)
    return distances(z0, z1, power, reduction, shard, backend)
