# SPDX-License-Identifier: Apache-2.0
"""Regularise covariances as VICReg's kin do; no loss forms a D x D matrix where an N x N one is smaller, except tico.

``side``, ``group`` and ``backend`` are those of `sslkernels.functional.barlow_twins`; statistics are those of all rows
of the group.

`vcreg` and `vibcreg` compute their gradient in the forward, unless no input needs one. So call them under
`torch.no_grad` where no backward follows: the value alone takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_device,
    check_number,
    check_pair,
    check_rows,
    check_views,
    check_weights,
    shape_of,
)
from sslkernels.distributed import GroupLike, summed
from sslkernels.functional.correlation import shard_of_views
from sslkernels.ops.correlation import Formula, Scaling, column_loss, column_moments
from sslkernels.ops.dtypes import promoted, wide
from sslkernels.ops.rows import row_dot, unit_rows

# This brings columns of any scale to length sqrt(N); a column of zeros stays so.
UNIT = Scaling(0.0, outside=True)


def vcreg(
    z: Tensor,
    *,
    var: float = 25.0,
    cov: float = 1.0,
    eps: float = 1e-4,
    side: str | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Keep the features of one embedding varied and uncorrelated (VCReg, Zhu et al. 2023), as in stable-pretraining.

    ``var * variance_hinge(z) / 2 + cov * covariance_penalty(z)`` from one pass over ``z (N, D)``, ``N >= 2``. The paper
    does not halve the first term and divides the second by ``D - 1`` too; ``var=2*alpha, cov=beta/(D-1)`` gives that.

    Returns:
        0-dim float32 (float64 for float64 rows).

    Cost: half of `sslkernels.functional.vicreg`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.vcreg(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    tensor(4.)
    """
    var, cov, eps = check_weights("vcreg", var=var, cov=cov, eps=eps)
    shard = shard_of_views("vcreg", {"z": z}, side, group, least=2, var=var, cov=cov, eps=eps)
    formula = Formula(off=cov, power=1, hinge=var / 2, hinge_eps=eps)
    return column_loss(z, None, "each", formula, side=side, shard=shard, backend=backend)


def vibcreg(
    z0: Tensor,
    z1: Tensor,
    *,
    sim: float = 25.0,
    var: float = 25.0,
    cov: float = 200.0,
    eps: float = 1e-4,
    side: str | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Do as VICReg does with correlations in place of covariances (VIbCReg, Lee and Aune 2021), as in solo-learn.

    ``sim * mean((z0 - z1)^2) + var * (hinge(z0) + hinge(z1)) + cov * (penalty(z0) + penalty(z1))`` where hinge is
    `variance_hinge`, not halved, and penalty is ``sum_(i != j) r_ij^2 / D^2`` with the correlations r of the columns.

    Args:
        z0, z1: two views ``(N, D)``, ``N >= 2``.
        sim, var, cov: weights.
        eps: added to the variances under the root of the hinge.

    Returns:
        0-dim float32 (float64 for float64 rows). A constant column correlates with none.

    Cost: that of `sslkernels.functional.vicreg`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> z = torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    >>> SF.vibcreg(z, z)
    tensor(200.)
    """
    sim, var, cov, eps = check_weights("vibcreg", sim=sim, var=var, cov=cov, eps=eps)
    shard = shard_of_views("vibcreg", {"z0": z0, "z1": z1}, side, group, least=2, sim=sim, var=var, cov=cov, eps=eps)
    formula = Formula(gap=sim, off=cov, power=2, hinge=var, hinge_eps=eps)
    return column_loss(z0, z1, "each", formula, scaling=UNIT, side=side, shard=shard, backend=backend)


def frossl(
    views: Sequence[Tensor],
    *,
    invariance_weight: float = 1.0,
    side: str | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Bring two or more views together and spread their features evenly (FroSSL, Skean et al. 2023), as in lightly.

    ``sum_v log |S_v / trace S_v|_F^2 + invariance_weight * V / N * sum_v |u_v - mean(u)|^2``, where u_v are the columns
    of view v divided by their L2 norm, not centred, and ``S_v = u_v^T u_v``.

    Args:
        views: V tensors ``(N, D)``, ``N >= 1``.
        invariance_weight: weight of the second term.

    Returns:
        0-dim float32 (float64 for float64 rows).

    With a ``group`` the mean over ranks of the returned values is the loss of all rows.
    Cost: ``3*V*N*D*min(N, D)`` operations forward and backward, ``O(V*N*D + min(N, D)^2)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.frossl([torch.eye(4), torch.eye(4)])
    tensor(-2.7726)
    """
    invariance_weight = check_number("frossl", "invariance_weight", invariance_weight, least=0)
    views = check_views("frossl", "views", views)
    named = {f"views[{v}]": z for v, z in enumerate(views)}
    shard = shard_of_views(
        "frossl", named, side, group, least=1, views=len(views), invariance_weight=invariance_weight
    )  # fmt: skip
    local, features = views[0].shape
    rows = shard.total(local)
    sums = wide(views[0].dtype)
    regularization, columns = views[0].new_zeros((), dtype=torch.float64), []
    for z in views:
        moments = column_moments(
            z, None, "each", centre=False, scaling=UNIT, side=side, shard=shard, backend=backend
        )  # fmt: skip
        squares = moments.squares[0]
        trace = (squares > 0).sum().to(squares.dtype)  # every column has length 1 or 0
        regularization = regularization + (moments.off[0] / rows**2 + trace).log() - 2 * trace.log()
        columns.append(z.to(sums) * squares.clamp_min(2.0**-250).rsqrt().to(sums))  # fp32 holds no larger inverse
    unit = torch.stack(columns)
    spread = (unit - unit.mean(0)).square().sum() * shard.ranks
    return (regularization + invariance_weight * len(views) / rows * spread).to(sums)


def tico(
    z0: Tensor,
    z1: Tensor,
    covariance: Tensor | None = None,
    *,
    beta: float = 0.9,
    rho: float = 8.0,
    group: GroupLike = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Bring two views together, and away from directions that embeddings took before (TiCo, Zhu et al. 2022).

    ``1 - mean(<u0, u1>) + rho * mean(u0^T C u0)``; C goes from one step to the next.

    Args:
        z0, z1: two views ``(N, D)``, ``N >= 1``; u are their rows divided by their norm. In the paper z1 comes from a
            teacher.
        covariance: the C of the step before, ``(D, D)``; None is all zeros.
        beta: ``C = beta * covariance + (1 - beta) * u0^T u0 / N``, with the rows of all ranks of the group.
        rho: weight of the second term.
        group: as in `nt_xent`: the mean of the loss over ranks is the loss of all rows. D*D numbers are exchanged.

    Returns:
        The loss, 0-dim float32 (float64 for float64 rows), and C, which has no gradient: it is a constant of the loss.

    Cost: ``6*N*D^2`` operations, ``O(N*D + D^2)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> loss, covariance = SF.tico(torch.eye(4), torch.eye(4))
    >>> loss
    tensor(0.2000)
    """
    rho = check_number("tico", "rho", rho, least=0)
    beta = check_number("tico", "beta", beta, least=0, most=1)
    check_pair("tico", {"z0": z0, "z1": z1}, gathered=group is not None)
    features, sums = z0.shape[1], wide(z0.dtype)
    if covariance is not None:
        check_rows("tico", "covariance", covariance, "(D, D), with the D of z0")
        if covariance.shape != (features, features):
            raise ValueError(
                f"tico: covariance has shape {shape_of(covariance)} and z0 {shape_of(z0)}; "
                f"expected ({features}, {features}). Was it made by embeddings of another width?"
            )
        check_device("tico", "covariance", covariance, "z0", z0)
    before = None if covariance is None else shape_of(covariance)
    shard = shard_of_views("tico", {"z0": z0, "z1": z1}, None, group, least=1, beta=beta, rho=rho, covariance=before)
    z0, z1 = promoted(z0, z1)
    u0, u1 = unit_rows(z0, backend=backend), unit_rows(z1, backend=backend)
    rows = shard.total(z0.shape[0])
    with torch.autocast(z0.device.type, enabled=False):  # C must not be rounded, since it lasts for many steps
        wide0 = u0.to(sums)
        with torch.no_grad():
            batch = (1 - beta) / rows * summed(wide0.T @ wide0, shard)
            matrix = batch if covariance is None else beta * covariance.to(batch) + batch
        contrast = (wide0 @ matrix * wide0).sum()
    agreement = row_dot(u0, u1, backend=backend).sum()
    return 1 + shard.ranks / rows * (rho * contrast - agreement), matrix
