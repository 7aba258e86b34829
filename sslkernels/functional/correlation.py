# SPDX-License-Identifier: Apache-2.0
"""Decorrelate features: these losses use `column_moments`, and form no D x D matrix where an N x N one is smaller.

Every function takes ``group``. The value is then that of the rows of all ranks, the same on each, and gradients
averaged over ranks (DDP) are those of one process. Ranks exchange O(N*D) numbers where N < D, else D*D.

Losses compute their gradient in the forward, unless no input needs one. So call them under `torch.no_grad` where no
backward follows: the value alone takes a third of the time.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_alike, check_choice, check_number, check_rows, check_weights, shape_of
from sslkernels.distributed import GroupLike, Shard, shard_of
from sslkernels.ops.correlation import SIDES, Formula, Scaling, column_loss, column_moments
from sslkernels.ops.dtypes import wide

STATISTICS = ("local", "global")


def cross_correlation_sq(
    a: Tensor, b: Tensor, *, side: str | None = None, group: GroupLike = None, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Sum the squares of a cross-correlation matrix, from which decorrelation losses are made.

    Gives ``(diagonal (D,), total)`` of ``C = a^T b``: C_ii, and the sum of C_ij^2 over all i and j. Nothing is centred.

    Args:
        a, b: rows ``(N, D)``, ``N >= 1``; float32, float64, bfloat16 or float16.
        side: ``"samples"`` uses |a^T b|^2 = <a a^T, b b^T>, ``"features"`` the D x D matrix; by default the smaller.
        group: ranks whose rows are summed too; ``None`` never communicates.
        backend: see `logsumexp_similarity`.

    Returns:
        float32 (float64 for float64 rows). Both are differentiable, once.

    If you subtract the squared diagonal from the total, digits cancel on the side of samples: the error is some 1e-6 of
    the total in fp32, at worst 1e-5. The side of features sums the rest directly. Gradients on the side of samples
    lose less than a digit. An infinite entry makes the total infinite on the side of features, and NaN on that of
    samples.
    Cost forward and backward: ``6*N*D*min(N, D)`` operations, ``O(N*D + min(N, D)^2)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.cross_correlation_sq(torch.eye(2, 3), torch.ones(2, 3))
    (tensor([1., 1., 0.]), tensor(6.))
    """
    shard = shard_of_views("cross_correlation_sq", {"a": a, "b": b}, side, group, least=1)
    _, diagonal, _, off = column_moments(a, b, "cross", centre=False, side=side, shard=shard, backend=backend)
    total = off[0] + diagonal.square().sum()
    return diagonal.to(wide(a.dtype)), total.to(wide(a.dtype))


def barlow_twins(
    z0: Tensor,
    z1: Tensor,
    *,
    lambd: float = 5e-3,
    eps: float = 1e-5,
    statistics: str = "local",
    convention: str = "official",
    side: str | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Make two views' features agree, and features independent of each other (Barlow Twins, Zbontar et al. 2021).

    ``sum_i (1 - C_ii)^2 + lambd * sum_(i != j) C_ij^2``

    Args:
        z0, z1: two views ``(N, D)``, ``N >= 2``. C is the mean over rows of products of their standardised columns.
        lambd: weight of the sum off the diagonal.
        eps: added to the variance (biased, as batch normalisation has it) under the root.
        statistics: with a ``group``, columns are standardised with each rank's own mean and variance ("local", as every
            library does) or with those of all rows ("global", as with SyncBatchNorm). C is always over all rows.
        convention: "official" (also lightly and solo-learn, which multiplies the loss by 0.025), or
            "stable-pretraining": columns divided by (unbiased standard deviation + eps).
        side: see `cross_correlation_sq`.
        group, backend: see `nt_xent`. Each rank exchanges N*D numbers per view, or D*D in all where N >= D.

    Returns:
        0-dim float32 (float64 for float64 rows).

    The gradient goes through means and variances. A constant column is all zeros once centred, and stays so.
    Cost: see `cross_correlation_sq`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> SF.barlow_twins(z, z.flip(1), eps=0.0)
    tensor(2.0100)
    """
    check_choice("barlow_twins", "statistics", statistics, STATISTICS)
    check_choice("barlow_twins", "convention", convention, ("official", "stable-pretraining"))
    lambd = check_number("barlow_twins", "lambd", lambd, least=0)
    eps = check_number("barlow_twins", "eps", eps, least=0)
    shared = statistics == "global"
    settings = {"lambd": lambd, "eps": eps, "statistics": statistics, "convention": convention}
    shard = shard_of_views("barlow_twins", {"z0": z0, "z1": z1}, side, group, least=2, each=not shared, **settings)
    outside = convention == "stable-pretraining"
    scaling = Scaling(eps, unbiased=outside, outside=outside)
    formula = Formula(agreement=1.0, off=lambd)
    return column_loss(
        z0, z1, "cross", formula, scaling=scaling, side=side, shard=shard, shared=shared, backend=backend
    )  # fmt: skip


def vicreg(
    z0: Tensor,
    z1: Tensor,
    *,
    sim: float = 25.0,
    var: float = 25.0,
    cov: float = 1.0,
    eps: float = 1e-4,
    side: str | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Bring two views together, and keep features varied and uncorrelated (VICReg, Bardes et al. 2022).

    This is the official loss:
    ``sim * mean((z0 - z1)^2) + var * (hinge(z0) + hinge(z1)) / 2 + cov * (penalty(z0) + penalty(z1))`` with
    `variance_hinge` and `covariance_penalty`. solo-learn does not halve the variance term; ``var=50`` gives the same.

    Args:
        z0, z1: two views ``(N, D)``, ``N >= 2``.
        sim, var, cov: weights.
        eps: added to the variances under the root.
        side, group, backend: see `barlow_twins`; statistics are those of all rows of the group.

    Returns:
        0-dim float32 (float64 for float64 rows). If a few columns vary far more than the rest, ``side="features"``
        gives the covariance term more digits: on the side of samples it is right to 1e-6 of all squared covariances,
        variances included. Gradients are equally good on both sides. On a GPU columns of 16-bit rows are rounded to 16
        bits before they are multiplied, on either side.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.vicreg(torch.eye(4), torch.eye(4).roll(1, 0))
    tensor(25.0392)
    """
    sim, var, cov, eps = check_weights("vicreg", sim=sim, var=var, cov=cov, eps=eps)
    shard = shard_of_views("vicreg", {"z0": z0, "z1": z1}, side, group, least=2, sim=sim, var=var, cov=cov, eps=eps)
    formula = Formula(gap=sim, off=cov, power=1, hinge=var / 2, hinge_eps=eps)
    return column_loss(z0, z1, "each", formula, side=side, shard=shard, backend=backend)


def variance_hinge(z: Tensor, *, eps: float = 1e-4, group: GroupLike = None, backend: str | None = None) -> Tensor:
    """Keep features varied by VICReg's variance term: the mean over columns of ``max(0, 1 - sqrt(variance + eps))``.

    The variance is unbiased. ``z`` is ``(N, D)`` with ``N >= 2``; the value is 0-dim float32 (float64 for float64
    rows). Cost: O(N*D).

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.variance_hinge(torch.tensor([[0.5, 3.0], [-0.5, -3.0]]))
    tensor(0.1464)
    """
    eps = check_number("variance_hinge", "eps", eps, least=0)
    shard = shard_of_views("variance_hinge", {"z": z}, None, group, least=2, eps=eps)
    return column_loss(z, None, "none", Formula(hinge=1.0, hinge_eps=eps), shard=shard, backend=backend)


def covariance_penalty(
    z: Tensor, *, side: str | None = None, group: GroupLike = None, backend: str | None = None
) -> Tensor:
    """Keep features uncorrelated by VICReg's covariance term: ``sum_(i != j) cov_ij^2 / D``, covariances unbiased.

    ``z`` is ``(N, D)`` with ``N >= 2``; the value is 0-dim float32 (float64 for float64 rows). `cross_correlation_sq`
    describes ``side`` and cost; here the forward takes half the operations. `vicreg` says how many digits are right if
    one column varies far more than the rest.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.covariance_penalty(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    tensor(4.)
    """
    shard = shard_of_views("covariance_penalty", {"z": z}, side, group, least=2)
    return column_loss(z, None, "each", Formula(off=1.0, power=1), side=side, shard=shard, backend=backend)


def shard_of_views(
    function: str,
    views: dict[str, Tensor],
    side: str | None,
    group: GroupLike,
    /,
    least: int,
    each: bool = False,
    **settings: object,
) -> Shard:
    """Check that views match and hold ``least`` rows, on ``each`` rank or on all together; return their shard."""
    (first, z0), *rest = views.items()
    check_rows(function, first, z0)
    for name, z in rest:
        check_rows(function, name, z)
        check_alike(function, name, z, first, z0, rows=True)
    if side is not None:
        check_choice(function, "side", side, SIDES)
    shard = shard_of(group, function, *views.values(), side=side, **settings)
    fewest = min(shard.sizes) if each and shard.ranks > 1 else shard.total(z0.shape[0])
    if fewest < least:
        came = shape_of(z0) if shard.ranks == 1 else f"{list(shard.sizes)} rows by rank"
        needs = "a row" if least == 1 else "two rows, or there is no variance"
        raise ValueError(f"{function}: {first} has {came}; the loss needs at least {needs}.")
    return shard
