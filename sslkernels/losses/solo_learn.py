# SPDX-License-Identifier: Apache-2.0
"""The functions of solo-learn's `solo.losses` (1.0.6), without their matrices: change the import and nothing else.

    - from solo.losses import simclr_loss_func
    + from sslkernels.losses.solo_learn import simclr_loss_func

Names, arguments, defaults, values and gradients are solo-learn's. Those that gather there once torch.distributed is
initialised do so here: `simclr_loss_func`, `nnclr_loss_func`, `mocov3_loss_func`, `vicreg_loss_func`,
`vibcreg_loss_func` and `barlow_loss_func`. The mean over ranks of their values, and the gradient that DDP averages, is
that of all rows. That differs from solo-learn in `barlow_loss_func` alone, whose gradient is ``1 / world_size`` of it
there, because nothing differentiates the sum over ranks. Rows are ``(N, D)`` everywhere.

>>> import torch
>>> from sslkernels.losses.solo_learn import simclr_loss_func
>>> simclr_loss_func(torch.eye(4).repeat(2, 1), torch.arange(4).repeat(2), temperature=0.5)
tensor(0.5944)
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_flag,
    check_number,
    check_pair,
    check_rows,
    check_temperature,
    shape_of,
)
from sslkernels.distributed import all_rows
from sslkernels.functional.correlation import barlow_twins, vicreg
from sslkernels.functional.cosine import negative_cosine_similarity
from sslkernels.functional.covariance import vibcreg
from sslkernels.functional.labelled import check_labels
from sslkernels.functional.similarity import info_nce, inverse, sharded
from sslkernels.ops.attention import attend_similarity
from sslkernels.ops.dtypes import widened
from sslkernels.ops.rows import row_dot
from sslkernels.ops.similarity import logsumexp_similarity
from sslkernels.ops.similarity.labelled import class_sums, contrast_classes

__all__ = [
    "barlow_loss_func",
    "byol_loss_func",
    "moco_loss_func",
    "mocov2plus_loss_func",
    "mocov3_loss_func",
    "nnclr_loss_func",
    "ressl_loss_func",
    "simclr_loss_func",
    "simsiam_loss_func",
    "vibcreg_loss_func",
    "vicreg_loss_func",
]


def simclr_loss_func(z: Tensor, indexes: Tensor, temperature: float = 0.1) -> Tensor:
    """Average ``-log(sum_(p in P_i) e^s_ip / sum_(a != i) e^s_ia)``, P_i the other rows with the index of row i.

    ``z (views * N, D)`` are the views of all samples, ``indexes (views * N,)``, int64, tell them apart, or are their
    classes. A row whose index no other row has makes the loss infinite, as it does there.
    """
    name = "simclr_loss_func"
    check_rows(name, "z", z)
    check_labels(name, "indexes", indexes, z)
    scale = inverse(check_temperature(name, temperature), z)
    shard = sharded("world", name, z, scale, temperature=temperature)
    loss = contrast_classes(z, indexes, scale, "in", True, False, "mean", shard, None)
    everyones = all_rows(indexes, shard)  # that loss has the mean of e^s_ip, where this has the sum
    mine = slice(shard.start, shard.start + len(z))
    positives = class_sums(torch.ones_like(everyones[:, None], dtype=loss.dtype), everyones)[mine] - 1
    return loss - positives.log().sum() * (shard.ranks / shard.total(len(z)))


def nnclr_loss_func(nn: Tensor, p: Tensor, temperature: float = 0.1) -> Tensor:
    """`info_nce` of the neighbours ``nn`` with the predictions ``p`` of the other view, from every rank."""
    return info_nce(nn, p, temperature=temperature, group="world")


def mocov2plus_loss_func(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.1) -> Tensor:
    """`info_nce` with the negatives of ``queue (D, K)``, a column each. All are used as given: normalise them first."""
    name = "mocov2plus_loss_func"
    check_rows(name, "query", query)
    check_rows(name, "queue", queue, "(D, K), a column for each negative")
    if len(queue) != query.shape[1]:
        raise ValueError(
            f"{name}: queue has shape {shape_of(queue)} and query {shape_of(query)}; pass a column of "
            f"{query.shape[1]} features for each negative."
        )
    return info_nce(query, key, negatives=queue.T, temperature=temperature, normalize=False)


moco_loss_func = mocov2plus_loss_func  # its name in 1.0.2


def mocov3_loss_func(query: Tensor, key: Tensor, temperature: float = 0.2) -> Tensor:
    """``2 * temperature`` times `info_nce`, with the keys of every rank."""
    return 2 * temperature * info_nce(query, key, temperature=temperature, group="world")


def ressl_loss_func(
    q: Tensor, k: Tensor, queue: Tensor, temperature_q: float = 0.1, temperature_k: float = 0.04
) -> Tensor:
    """Average the cross-entropy of q's softmax over the rows of ``queue (K, D)`` with that of k, the target.

    All are used as given: normalise them first. The targets have no gradient, but the queue may ask for one, which
    `sslkernels.functional.ressl` refuses.
    """
    name = "ressl_loss_func"
    check_pair(name, {"q": q, "k": k})
    check_alike(name, "queue", check_rows(name, "queue", queue, "(K, D)"), "q", q, rows=False)
    scale = inverse(check_temperature(name, temperature_q, "temperature_q"), q)
    target_scale = inverse(check_temperature(name, temperature_k, "temperature_k"), q)
    wanted = attend_similarity(k.detach(), queue.detach(), queue, target_scale)  # the mean of the queue in k's softmax
    return (logsumexp_similarity(q, queue, scale) - scale * row_dot(widened(q), wanted)).mean()


def byol_loss_func(p: Tensor, z: Tensor, simplified: bool = True) -> Tensor:
    """``2 - 2 cos(p_i, z_i)``, averaged; z has no gradient. ``simplified`` decides what short norms count as."""
    return 2 + 2 * _cosine("byol_loss_func", p, z, simplified)


def simsiam_loss_func(p: Tensor, z: Tensor, simplified: bool = True) -> Tensor:
    """``-cos(p_i, z_i)``, averaged; z has no gradient. ``simplified`` decides what short norms count as."""
    return _cosine("simsiam_loss_func", p, z, simplified)


def _cosine(name: str, p: Tensor, z: Tensor, simplified: bool) -> Tensor:
    check_pair(name, {"p": p, "z": z})
    return negative_cosine_similarity(p, z.detach(), eps=1e-8 if check_flag(name, "simplified", simplified) else 1e-12)


def barlow_loss_func(z1: Tensor, z2: Tensor, lamb: float = 5e-3, scale_loss: float = 0.025) -> Tensor:
    """``scale_loss`` times `barlow_twins`, of the mean of the ranks' cross-correlations."""
    scale_loss = check_number("barlow_loss_func", "scale_loss", scale_loss)
    return scale_loss * barlow_twins(z1, z2, lambd=lamb, group="world")


def vicreg_loss_func(
    z1: Tensor,
    z2: Tensor,
    sim_loss_weight: float = 25.0,
    var_loss_weight: float = 25.0,
    cov_loss_weight: float = 1.0,
) -> Tensor:
    """`vicreg` without the half of its variance term."""
    var = 2 * check_number("vicreg_loss_func", "var_loss_weight", var_loss_weight, least=0)
    return vicreg(z1, z2, sim=sim_loss_weight, var=var, cov=cov_loss_weight, group="world")


def vibcreg_loss_func(
    z1: Tensor,
    z2: Tensor,
    sim_loss_weight: float = 25.0,
    var_loss_weight: float = 25.0,
    cov_loss_weight: float = 200.0,
) -> Tensor:
    """`vibcreg`, which takes solo-learn's weights."""
    return vibcreg(z1, z2, sim=sim_loss_weight, var=var_loss_weight, cov=cov_loss_weight, group="world")
