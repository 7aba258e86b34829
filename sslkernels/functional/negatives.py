# SPDX-License-Identifier: Apache-2.0
"""Contrast two views as SimCLR does, with another sum over negatives: decoupled, debiased, or weighed by hardness."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import REDUCTIONS, check_choice, check_flag, check_number, check_pair, check_temperature
from sslkernels.distributed import GroupLike, named
from sslkernels.functional.similarity import computed, inverse, sharded
from sslkernels.ops.dtypes import compute_dtype, promoted
from sslkernels.ops.similarity.views import Debiased, Decoupled, Form, contrast_views


def dcl(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Push paired views together and all others apart, decoupled (DCL, Yeh et al. 2022, eq. 6).

    The mean over 2N anchors of ``loss_i = lse_i - p_i``: p_i is the logit of the positive, lse_i the log-sum-exp of the
    logits of all rows but the anchor and its positive. `nt_xent` has softplus of the same difference.

    Args:
        z0, z1: two views ``(N, D)`` of at least two pairs in all: one pair alone has no negative.
        temperature, normalize, reduction, group, backend: as in `nt_xent`.

    Cost: as `nt_xent` above its workspace: ``4*(2N)^2*D`` operations for value and gradient, ``O(N*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.dcl(torch.eye(4), torch.eye(4), temperature=0.5)
    tensor(-0.2082)
    """
    return _of_views("dcl", Decoupled(), z0, z1, temperature, normalize, reduction, group, backend)


def dclw(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Decouple as `dcl` does, and weigh positives that are far apart more (DCLW, Yeh et al. 2022, eq. 7).

    ``loss_i = lse_i - w_i * p_i`` with ``w_i = 2 - N * softmax_i(<z0_i, z1_i> / sigma)`` over the N pairs of all ranks.
    The weights get no gradient; their mean is 1.

    Args:
        sigma: how far apart counts as far, a positive number.
        z0, z1, temperature, normalize, reduction, group, backend: as in `dcl`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.dclw(torch.eye(4), torch.eye(4), temperature=0.5)
    tensor(-0.2082)
    """
    sigma = check_number("dclw", "sigma", sigma, above=0.0)
    return _of_views("dclw", Decoupled(sigma), z0, z1, temperature, normalize, reduction, group, backend, sigma=sigma)


def debiased_nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    prior: float = 0.1,
    hardness: float = 0.0,
    normalize: bool = True,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Correct `nt_xent` for negatives of the anchor's own class, and weigh the hard ones.

    The debiased loss is that of Chuang et al. (2020, eq. 8), and with ``hardness`` it is HCL (Robinson et al. 2021,
    eq. 4). Of the M = 2N - 2 negatives with logits x_j and the positive's logit p,

        g = max(M * (sum_j e^((1 + hardness) x_j) / sum_j e^(hardness x_j) - prior * e^p) / (1 - prior), M * e^(-1/t))
        loss = log(1 + g * e^(-p))

    With ``prior=0`` and ``hardness=0`` this is `nt_xent` for rows of norm 1.

    Args:
        z0, z1: two views ``(N, D)`` of at least two pairs in all.
        prior: the share of negatives that are of the anchor's class, at least 0 and below 1.
        hardness: how much similar negatives weigh more, at least 0; the authors' beta.
        temperature: as in `nt_xent`; the authors' 0.5.
        normalize, reduction, group, backend: as in `nt_xent`.

    Cost: ``4*(2N)^2*D`` operations for value and gradient, twice as many with ``hardness``; ``O(N*D)`` memory. No
    weight of a negative is stored: both sums are log-sum-exps.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.debiased_nt_xent(torch.eye(4), torch.eye(4), prior=0.0)
    tensor(0.5944)
    """
    prior = check_number("debiased_nt_xent", "prior", prior, least=0.0)
    hardness = check_number("debiased_nt_xent", "hardness", hardness, least=0.0)
    if prior >= 1:
        raise ValueError(f"debiased_nt_xent: prior is {prior:g}; pass a share from 0 to below 1, such as 0.1.")
    return _of_views(
        "debiased_nt_xent", Debiased(prior, hardness), z0, z1, temperature, normalize, reduction, group, backend,
        prior=prior, hardness=hardness,
    )  # fmt: skip


def _of_views(
    function: str,
    form: Form,
    z0: Tensor,
    z1: Tensor,
    temperature: float | Tensor,
    normalize: bool,
    reduction: str,
    group: GroupLike,
    backend: str | None,
    **settings: object,
) -> Tensor:
    check_pair(function, {"z0": z0, "z1": z1}, gathered=group is not None)
    temperature = check_temperature(function, temperature)
    normalize = check_flag(function, "normalize", normalize)
    check_choice(function, "reduction", reduction, REDUCTIONS)
    z0, z1 = promoted(z0, z1) if normalize else computed(z0, z1)
    scale, dtype = inverse(temperature, z0), compute_dtype(z0)
    settings |= {"temperature": temperature, "normalize": normalize, "reduction": reduction, "dtype": named(dtype)}
    shard = sharded(group, function, z0, z1, scale, **settings)
    if shard.total(z0.shape[0]) < 2:
        raise ValueError(f"{function}: there is one pair alone, and no negative; pass at least two pairs.")
    return contrast_views(form, z0, z1, scale, normalize, dtype, reduction, shard, backend)
