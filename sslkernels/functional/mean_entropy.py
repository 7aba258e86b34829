# SPDX-License-Identifier: Apache-2.0
"""Let a batch use all prototypes: the mean-entropy maximisation of MSN, and PMSN's matching of a prior.

The mean probability m_k of prototype k is a log-sum-exp over rows, with the rows' own log-sum-exps as biases:

    s_i = lse_k(<x_i, w_k> / t),     log m_k = lse_i(<w_k, x_i> / t - s_i) - log N

so that no softmax (N, K) is ever stored, and no m_k leaves the range of its logarithm.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_device,
    check_flag,
    check_floating,
    check_rows,
    check_temperature,
    check_tensor,
    shape_of,
)
from sslkernels.distributed import GroupLike, Shard, gather_rows, named
from sslkernels.functional.sampled import multiplied
from sslkernels.functional.similarity import inverse, sharded
from sslkernels.ops.dtypes import compute_dtype, promoted
from sslkernels.ops.similarity import logsumexp_similarity


def mean_entropy(
    x: Tensor,
    weight: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    prior: Tensor | None = None,
    normalize: bool = True,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Use all prototypes alike, on average over a batch: me-max of MSN (Assran et al. 2022), a loss to be added.

    ``log K - H(m) = sum_k m_k * log(K * m_k)`` with m the mean over rows of ``softmax_k(<x_i, w_k> / temperature)``: 0
    where all prototypes are as probable, log K where one has everything.

    With a ``prior`` q it is ``sum_k q_k * log(q_k / m_k)`` (PMSN, Assran et al. 2023, as lightly's PMSNLoss has it).

    Args:
        x: rows ``(N, D)``.
        weight: the prototypes ``(K, D)``, ``K >= 1``, with a gradient.
        temperature: non-zero number (negative is legal) or one-element tensor, which receives its gradient.
        prior: ``(K,)``, at least 0 (checked on the CPU), with sum 1, without a gradient.
        normalize: divide rows and prototypes by ``max(norm, 1e-12)``.
        group: ranks whose rows m is the mean of; all of them return the same value, that of the concatenated batch, and
            must hold the same prototypes. K numbers of each are exchanged. Ranks may hold different N.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows).

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, no rows; ranks that disagree.

    Cost: twice that of `logsumexp_similarity`, ``4*N*K*D`` operations forward and ``8*N*K*D`` to ``12*N*K*D`` backward;
    ``O((N + K)*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.mean_entropy(torch.eye(3)[:2], torch.eye(3))  # nearly log 3 - log 2: two of three are used
    tensor(0.4050)
    """
    function = "mean_entropy"
    check_rows(function, "x", x)
    check_alike(function, "weight", check_rows(function, "weight", weight), "x", x, rows=False)
    if weight.shape[0] == 0:
        raise ValueError(f"{function}: weight has shape {shape_of(weight)}; pass at least one prototype.")
    temperature = check_temperature(function, temperature)
    if prior is not None:
        prior = check_prior(function, prior, weight)
    normalize = check_flag(function, "normalize", normalize)
    log_mean = log_mean_assignment(
        function, x, weight, temperature, normalize=normalize, group=group, backend=backend, prior=prior is not None
    )
    return divergence(log_mean, prior)


def log_mean_assignment(
    function: str,
    x: Tensor,
    weight: Tensor,
    temperature: float | Tensor,
    *,
    normalize: bool,
    group: GroupLike,
    backend: str | None = None,
    **settings: object,
) -> Tensor:
    """Compute the logarithms ``(K,)`` of the prototypes' mean probabilities; ``settings`` are alike on all ranks."""
    x, weight = promoted(x, weight)
    scale = inverse(temperature, x)
    settings |= {"temperature": temperature, "normalize": normalize}
    settings |= {"dtype": named(compute_dtype(x)), "prototypes": weight.shape[0]}
    shard = sharded(group, function, x, weight, scale, **settings)
    x, weight = multiplied(x, normalize, backend), multiplied(weight, normalize, backend)
    rows = logsumexp_similarity(x, weight, scale, backend=backend)
    mine = logsumexp_similarity(weight, x, scale, bias=-rows, backend=backend)
    if shard.ranks > 1:
        one_each = Shard(shard.group, (1,) * shard.ranks, shard.rank)
        mine = gather_rows(mine[None], one_each).logsumexp(0)
    return mine - math.log(shard.total(x.shape[0]))


def power_law(weight: Tensor, exponent: float) -> Tensor:
    """Make a prior for prototypes ``(K, D)``: number k, from 1, is as probable as ``k ** -exponent``."""
    prior = torch.arange(1, weight.shape[0] + 1, device=weight.device, dtype=compute_dtype(weight)).pow(-exponent)
    return prior / prior.sum()


def divergence(log_mean: Tensor, prior: Tensor | None) -> Tensor:
    """Compute how far mean probabilities are from a prior, or from 1 / K each."""
    # The sum of all m_k - q_k, which is 0, is taken off term by term (q_k is 1/K without a prior): no term is below 0
    # then, and no slope large where m is near q, so that a small value and gradient keep their digits.
    if prior is None:
        excess = log_mean + math.log(log_mean.shape[0])
        return (excess * excess.exp() - excess.expm1()).mean()
    prior = prior.detach().to(log_mean.dtype)
    return (torch.xlogy(prior, prior) - prior * log_mean + log_mean.exp() - prior).sum()


def check_prior(function: str, value: object, weight: Tensor, name: str = "prior") -> Tensor:
    """Check one probability for each prototype ``(K, D)``."""
    prior = check_tensor(function, name, value, "(K,)")
    check_floating(function, name, prior)
    if prior.shape != weight.shape[:1]:
        raise ValueError(
            f"{function}: {name} has shape {shape_of(prior)} and weight {shape_of(weight)}; "
            "pass one probability for each prototype."
        )
    check_device(function, name, prior, "weight", weight)
    if prior.device.type == "cpu" and not torch.compiler.is_compiling() and (prior < 0).any():
        raise ValueError(f"{function}: {name} holds {float(prior.min()):g}; pass probabilities, at least 0.")
    return prior
