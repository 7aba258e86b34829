# SPDX-License-Identifier: Apache-2.0
"""Compute losses whose targets are spread over a bank: a teacher's similarities to it, or several positives in it.

Neither targets nor logits are ever a matrix: a cross-entropy with soft targets t needs ``sum_j t_ij * s_ij`` alone, and
that is a product of the query with what the teacher attends to.
"""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import (
    REDUCTIONS,
    check_alike,
    check_choice,
    check_flag,
    check_number,
    check_pair,
    check_rows,
    check_scalar,
    check_temperature,
    shape_of,
)
from sslkernels.functional.sampled import check_batch, multiplied, reduced, starts
from sslkernels.functional.similarity import inverse
from sslkernels.ops.attention.compare import compared
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.rows import row_dot
from sslkernels.ops.sampled import check_places, gather_similarity
from sslkernels.ops.sigmoid import softplus_similarity
from sslkernels.ops.similarity.anchors import losses_of
from sslkernels.ops.softplus import softplus


def similarity_distillation(
    query: Tensor,
    key: Tensor,
    bank: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    target_temperature: float | Tensor = 0.07,
    coefficient: float = 0.5,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Find the key of each query, and be as similar to all others as the key is (SCE, Denize et al. 2023).

    ``loss_i = -sum_j w_ij * log p_ij`` over the key (j = 0) and the rows of the bank. p_i is the softmax of the query's
    similarities at ``temperature``. The target is ``w_i = c * (1, 0, ..., 0) + (1 - c) * (0, t_i)``, where t_i is the
    softmax of the key's similarities to the bank at ``target_temperature``, and c the coefficient.

    Args:
        query: the student's rows ``(N, D)``, ``N >= 1``.
        key: the teacher's rows ``(N, D)``; row i of one matches row i of the other. They get no gradient.
        bank: ``(M, D)``, ``M >= 1``, what both are compared with, such as a queue of earlier keys: as given (never
            normalised again), without a gradient. It may be overwritten before the backward.
        temperature: non-zero number (negative is legal) or one-element tensor, which receives its gradient.
        target_temperature: as ``temperature``, but without a gradient; lower, so that targets are sharper.
        coefficient: c, from 0 (the teacher's similarities alone) to 1, where this is `info_nce` with ``negatives``.
        normalize: divide rows of query and key by ``max(norm, 1e-12)``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend, no rows, a bank that
            requires a gradient.

    The part of the teacher is a difference of two sums, and as exact as the largest logit.

    This is the formula of the paper. The authors' code, where it has a queue alone, gives the key a share in t_i as if
    its similarity to itself were 0.

    Cost: ``8*N*M*D`` operations forward, with or without gradients, and nothing of that order backward;
    ``O((N + M)*D)`` memory. Forming the matrices of logits takes ``4*N*M*D`` forward and ``2*N*M*D`` backward.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.similarity_distillation(torch.eye(3), torch.eye(3), torch.eye(3).roll(1, 0), temperature=1.0)
    tensor(1.0064)
    """
    function = "similarity_distillation"
    check_pair(function, {"query": query, "key": key})
    _check_frozen(function, bank, query)
    temperature = check_temperature(function, temperature)
    target_temperature = check_temperature(function, target_temperature, "target_temperature")
    coefficient = check_number(function, "coefficient", coefficient, least=0, most=1)
    normalize = check_flag(function, "normalize", normalize)
    check_choice(function, "reduction", reduction, REDUCTIONS)
    query, key, bank = _prepared(query, key, bank, normalize, backend)
    scale = inverse(temperature, query)
    lse, target = compared(query, key, bank, scale, inverse(target_temperature, query), backend)
    positive = scale * row_dot(query, key, backend=backend)
    # To subtract the positive from a sum that it is part of would lose the gradient of aligned pairs.
    others = softplus(positive - lse) + lse - target
    return reduced(coefficient * losses_of(lse, positive) + (1 - coefficient) * others, reduction)


def ressl(
    query: Tensor,
    key: Tensor,
    bank: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    target_temperature: float | Tensor = 0.04,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Be as similar to the rows of a bank as the teacher is (ReSSL, Zheng et al. 2021).

    ``loss_i = -sum_j t_ij * log p_ij`` over the rows of the bank: p_i is the softmax of the query's similarities at
    ``temperature``, and t_i that of the key's at ``target_temperature``.

    Args:
        query, key, bank, temperature, target_temperature: as in `similarity_distillation`, which has the key of each
            query among the rows that are compared, and this has not.
        normalize, reduction, backend: as in `similarity_distillation`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    Raises:
        ValueError, TypeError: as `similarity_distillation`.

    Cost: as `similarity_distillation`.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.ressl(torch.eye(3), torch.eye(3), torch.eye(3), temperature=1.0)
    tensor(0.5514)
    """
    check_pair("ressl", {"query": query, "key": key})
    _check_frozen("ressl", bank, query)
    temperature = check_temperature("ressl", temperature)
    target_temperature = check_temperature("ressl", target_temperature, "target_temperature")
    normalize = check_flag("ressl", "normalize", normalize)
    check_choice("ressl", "reduction", reduction, REDUCTIONS)
    query, key, bank = _prepared(query, key, bank, normalize, backend)
    scale, target_scale = inverse(temperature, query), inverse(target_temperature, query)
    lse, target = compared(query, key, bank, scale, target_scale, backend)
    return reduced(lse - target, reduction)


def multi_label_bce(
    query: Tensor,
    dictionary: Tensor,
    positive: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    bias: float | Tensor = 0.0,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Tell for each row of a dictionary if it belongs to a query: several may (Multi-Label SSL, Zhu et al. 2023).

    ``loss_i = mean_j BCE(sigmoid(s_ij), y_ij) = (sum_j softplus(s_ij) - sum_{j in P_i} s_ij) / M`` with the logits
    ``s_ij = <query_i, dictionary_j> / temperature + bias``; y_ij is 1 for the positives P_i, and 0 for all others.

    Args:
        query: rows ``(N, D)``, ``N >= 1``.
        dictionary: ``(M, D)``, ``M >= 1``, such as a queue: as given (never normalised again), with a gradient where it
            asks for one. It must not change before the backward.
        positive: int64 or int32 ``(N, P)``, the rows of the dictionary that belong to each query; -1 stands for none,
            repeats count once.
        temperature: non-zero number (negative is legal) or one-element tensor, which receives its gradient.
        bias: number or one-element tensor, which receives its gradient. With few positives a negative one saves the
            first steps from pushing all rows away, as in `siglip_loss`.
        normalize: divide rows of the query by ``max(norm, 1e-12)``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend, no rows.
        IndexError: a positive outside ``[-1, M)``, checked on the CPU; on a GPU see `gather_similarity`.

    Cost: that of `softplus_similarity`, ``2*N*M*D`` operations forward and ``4*N*M*D`` to ``6*N*M*D`` backward, and of
    `gather_similarity`; ``O(N*P + (N + M)*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.multi_label_bce(torch.eye(3), torch.eye(3), torch.tensor([[0], [1], [2]]), temperature=1.0)
    tensor(0.5665)
    """
    function = "multi_label_bce"
    check_batch(function, "query", check_rows(function, "query", query))
    _check_bank(function, "dictionary", dictionary, query)
    positive = check_places(function, "positive", positive, "query", query, dictionary.shape[0])
    temperature = check_temperature(function, temperature)
    bias = check_scalar(function, "bias", bias)
    normalize = check_flag(function, "normalize", normalize)
    check_choice(function, "reduction", reduction, REDUCTIONS)
    query, dictionary = promoted(query, dictionary)
    query = multiplied(query, normalize, backend)
    dictionary = dictionary.to(query.dtype)
    scale, bias = inverse(temperature, query), scale_tensor(bias, query)
    columns, _ = positive.long().sort(1)
    columns = columns.masked_fill(~starts(columns), -1)
    logits = gather_similarity(query, dictionary, columns, scale, backend=backend) + bias
    total = softplus_similarity(query, dictionary, scale, bias, backend=backend)
    return reduced((total - logits.masked_fill(columns < 0, 0).sum(1)) / dictionary.shape[0], reduction)


def _prepared(
    query: Tensor, key: Tensor, bank: Tensor, normalize: bool, backend: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows as they are multiplied; those of the teacher are constants."""
    query, key, bank = promoted(query, key.detach(), bank)
    return multiplied(query, normalize, backend), multiplied(key, normalize, backend), bank.to(compute_dtype(bank))


def _check_bank(function: str, name: str, bank: Tensor, query: Tensor) -> None:
    check_alike(function, name, check_rows(function, name, bank), "query", query, rows=False)
    if bank.shape[0] == 0:
        raise ValueError(f"{function}: {name} has shape {shape_of(bank)}; pass at least one row to compare with.")


def _check_frozen(function: str, bank: Tensor, query: Tensor) -> None:
    _check_bank(function, "bank", bank, query)
    if bank.requires_grad:
        raise ValueError(f"{function}: bank requires a gradient, and this loss gives it none; pass bank.detach().")
