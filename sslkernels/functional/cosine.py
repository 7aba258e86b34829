# SPDX-License-Identifier: Apache-2.0
"""Make matching rows agree, as SimSiam and BYOL do; no term pushes other rows apart."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import REDUCTIONS, check_choice, check_number, check_pair
from sslkernels.distributed import GroupLike, Shard
from sslkernels.functional.similarity import sharded
from sslkernels.ops.dtypes import promoted
from sslkernels.ops.rows.cosine import cosine_losses

# eps may not be smaller, because its inverse times a row must fit float32.
LEAST_EPS = 1e-30


def negative_cosine_similarity(
    x0: Tensor,
    x1: Tensor,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Make matching rows point the same way (SimSiam, Chen and He 2021, eq. 1).

    The mean over rows of ``-<x0_i, x1_i> / (max(|x0_i|, eps) * max(|x1_i|, eps))``.

    Args:
        x0, x1: ``(N, D)``, ``N >= 1``; row i of one matches row i of the other. SimSiam's loss is the mean of this one
            for ``(p0, z1.detach())`` and for ``(p1, z0.detach())``.
        eps: shorter norms count as this, at least 1e-30.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.
        group: ranks over which the mean is taken: the mean over ranks of the returned loss is the loss of the
            concatenated batch. ``None`` never communicates; ``"world"`` is every rank. Ranks may hold different N.
        backend: "reference", "cpu" or "triton"; None takes the fastest that can run.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``; sums have that dtype. Autocast changes nothing: rows are
        read in their own dtypes, which may differ under autocast.

    A row of zeros has cosine 0 and the gradient ``-x1_i / (eps |x1_i|)``. This is the gradient of the formula, as for
    every norm below eps; torch's ``cosine_similarity`` differs there. Norms are right even if squares overflow float32.

    Cost: the forward reads both once, and writes the gradient of each side that needs one in float32 (float64); the
    backward rounds it to the dtype of its side. If no backward follows, it was written for nothing, so call the loss
    under `torch.no_grad` there. With ``"none"`` the forward reads both and keeps three numbers per row, and the
    backward reads both once more. A second derivative raises.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.negative_cosine_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(-0.8000)
    """
    eps = check_number("negative_cosine_similarity", "eps", eps, least=LEAST_EPS)
    check_choice("negative_cosine_similarity", "reduction", reduction, REDUCTIONS)
    x0, x1, shard = _sides("negative_cosine_similarity", {"x0": x0, "x1": x1}, group, eps=eps, reduction=reduction)
    return cosine_losses(x0, x1, eps, 0, 1, reduction, shard, backend)


def byol_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Make an online network predict a teacher's rows (BYOL, Grill et al. 2020, eq. 2).

    The mean over rows of ``|p_i / |p_i| - t_i / |t_i||^2 = 2 - 2 cos(p_i, t_i)``.

    Args:
        prediction: ``(N, D)``, ``N >= 1``, from the online network.
        target: ``(N, D)`` from the teacher, usually detached; its side then costs one read and no gradient.
        reduction, group, backend: as in `negative_cosine_similarity`.

    Norms count as at least 1e-12. BYOL adds the losses of both orders of the two views. Result and cost are those of
    `negative_cosine_similarity`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.byol_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(0.4000)
    """
    check_choice("byol_loss", "reduction", reduction, REDUCTIONS)
    prediction, target, shard = _sides(
        "byol_loss", {"prediction": prediction, "target": target}, group, reduction=reduction
    )
    return cosine_losses(prediction, target, 1e-12, 2, 2, reduction, shard, backend)


def _sides(
    function: str, sides: dict[str, Tensor], group: GroupLike, **settings: object
) -> tuple[Tensor, Tensor, Shard]:
    check_pair(function, sides, gathered=group is not None)
    x0, x1 = promoted(*sides.values())
    return x0, x1, sharded(group, function, x0, x1, **settings)
