# SPDX-License-Identifier: Apache-2.0
"""Compute contrastive losses whose negatives, or positives, an index names row by row, from `gather_similarity`.

As in `sslkernels.functional.similarity`, a positive is left out of the sum that it is compared with: the loss is
softplus(lse of the others - positive), and well-aligned pairs keep their gradient.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import (
    REDUCTIONS,
    check_alike,
    check_choice,
    check_device,
    check_flag,
    check_floating,
    check_pair,
    check_rows,
    check_temperature,
    check_tensor,
    shape_of,
)
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.sampled import check_places, gather_similarity
from sslkernels.ops.similarity import logsumexp_similarity
from sslkernels.ops.similarity.anchors import losses_of
from sslkernels.ops.softplus import softplus


def sampled_info_nce(
    query: Tensor,
    positive: Tensor,
    pool: Tensor,
    index: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    equal: str = "exclude",
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Find the positive of each query among negatives sampled for it (wav2vec 2.0, Baevski et al. 2020, eq. 3).

    The mean over rows of ``loss_i = softplus(lse_i - p_i)``: p_i is the logit of the positive, lse_i the log-sum-exp of
    the logits of ``pool[index_ik]`` over k. PIRL (Misra and van der Maaten 2020) samples 32,000 of a memory bank so.

    Args:
        query, positive: ``(N, D)``, ``N >= 1``; row i of one matches row i of the other.
        pool: ``(M, D)``, what negatives are sampled from: the other frames' targets, or a memory bank. It must not
            change before the backward.
        index: int64 or int32 ``(N, K)``, rows of the pool; -1 stands for none. See `gather_similarity`.
        temperature: non-zero number (negative is legal) or one-element tensor, which receives its gradient.
        normalize: divide all rows by ``max(norm, 1e-12)``.
        equal: ``"exclude"`` leaves out a negative whose row, as it was given, has the same bits as the row of the
            positive, as fairseq does: two frames may have the same quantised target. ``"keep"`` keeps it.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``. A row that has no negatives left has loss 0.

    Equal rows are found by a fingerprint of 64 bits for each row of both, so that no rows ``(N, K, D)`` are compared.
    Rows that differ have one fingerprint with a probability of 2^-32 or less.

    Cost: that of `gather_similarity`, ``2*N*K*D`` operations forward and ``4*N*K*D`` backward, and a few passes over
    the rows; ``O(N*K + (N + M)*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.sampled_info_nce(torch.eye(3), torch.eye(3), torch.eye(3), torch.tensor([[0, 1, 2]] * 3), temperature=1.0)
    tensor(0.5514)
    """
    check_pair("sampled_info_nce", {"query": query, "positive": positive})
    check_alike("sampled_info_nce", "pool", check_rows("sampled_info_nce", "pool", pool), "query", query, rows=False)
    index = check_places("sampled_info_nce", "index", index, "query", query, pool.shape[0])
    temperature = check_temperature("sampled_info_nce", temperature)
    normalize = check_flag("sampled_info_nce", "normalize", normalize)
    check_choice("sampled_info_nce", "equal", equal, ("exclude", "keep"))
    check_choice("sampled_info_nce", "reduction", reduction, REDUCTIONS)
    query, positive, pool = promoted(query, positive, pool)
    same = _same_rows(positive, pool, index) if equal == "exclude" else None
    query, positive, pool = (multiplied(rows, normalize, backend) for rows in (query, positive, pool))
    scale = scale_tensor(temperature, query).reciprocal()
    logits = gather_similarity(query, pool, index, scale, backend=backend)
    if same is not None:
        logits = logits.masked_fill(same, -torch.inf)
    return reduced(losses_of(_logsumexp(logits), scale * row_dot(query, positive, backend=backend)), reduction)


def mil_nce(
    video: Tensor,
    text: Tensor,
    positive: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    normalize: bool = False,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Match clips with any of several captions, of which some may not fit (MIL-NCE, Miech et al. 2020, eq. 1).

    ``loss_i = log(sum over P_i and N_i of e^s) - log(sum over P_i of e^s)``. P_i has the pairs of clip i with its own
    captions, N_i those with the captions of others, and those of its captions with other clips. Pairs that are positive
    for any clip are in no N_i. The mean is over clips; one that has no captions has loss 0.

    Args:
        video: clips ``(N, D)``, ``N >= 1``.
        text: captions ``(M, D)``. In the authors' layout rows ``i*C`` to ``i*C + C - 1`` belong to clip i.
        positive: int64 or int32 ``(N, P)``, the captions of each clip; -1 stands for none, repeats count once.
        temperature, normalize, reduction, backend: as in `sampled_info_nce`; the paper multiplies rows as they are.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    This is the formula of the paper. The authors' code joins row i and column i of the logits, and so has each positive
    twice in the first sum; its loss at a perfect match is log 2 instead of 0.

    Cost: that of `logsumexp_similarity` over rows and columns in one pass, ``2*N*M*D`` operations forward and
    ``4*N*M*D`` to ``6*N*M*D`` backward; ``O(N*P + (N + M)*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.mil_nce(torch.eye(2), torch.eye(2).repeat_interleave(2, 0), torch.tensor([[0, 1], [2, 3]]))
    tensor(0.5514)
    """
    check_rows("mil_nce", "video", video)
    check_alike("mil_nce", "text", check_rows("mil_nce", "text", text), "video", video, rows=False)
    check_batch("mil_nce", "video", video)
    positive = check_places("mil_nce", "positive", positive, "video", video, text.shape[0])
    temperature = check_temperature("mil_nce", temperature)
    normalize = check_flag("mil_nce", "normalize", normalize)
    check_choice("mil_nce", "reduction", reduction, REDUCTIONS)
    video, text = (multiplied(rows, normalize, backend) for rows in promoted(video, text))
    scale = scale_tensor(temperature, video).reciprocal()
    columns, _ = positive.long().sort(1)
    columns = columns.masked_fill(~starts(columns), -1)
    rows, cols = logsumexp_similarity(video, text, scale, exclude=columns, dim="both", backend=backend)
    others = gather_similarity(torch.ones_like(rows)[:, None], cols[:, None], columns, backend=backend)
    negatives = _logsumexp(torch.cat([rows[:, None], others], 1))
    positives = _logsumexp(gather_similarity(video, text, columns, scale, backend=backend))
    losses = losses_of(negatives, positives).masked_fill((columns < 0).all(1), 0)
    return reduced(losses, reduction)


def graph_nt_xent(
    z: Tensor,
    positive: Tensor,
    weight: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: str = "mean",
    backend: str | None = None,
) -> Tensor:
    """Pull rows to their neighbours in a graph and push all others away: SimCLR of a graph (PAL, Cabannes et al. 2023).

    ``loss_i = sum_p w_ip * (lse_i - s_ip)``: s_ip is the logit of row i and row ``positive[i, p]``, lse_i the
    log-sum-exp of the logits of row i and all rows but itself. With the other view of each row as its only neighbour
    this is `nt_xent`.

    Args:
        z: rows ``(N, D)``, ``N >= 1``.
        positive: int64 or int32 ``(N, P)``, the neighbours of each row; -1 stands for none, and so does the row itself.
            A neighbour that comes twice counts twice in the loss, and once in lse_i.
        weight: ``(N, P)``, the weight of each neighbour, with a gradient; 1 each if absent.
        temperature, normalize, reduction, backend: as in `sampled_info_nce`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``. The mean is over all rows.

    Terms are computed as ``softplus(rest_ip - s_ip)``, where rest_ip leaves out row i and this neighbour. To subtract
    s_ip from lse_i would lose the gradient of aligned rows: docs/design/sampled.md has the numbers.

    Cost: ``N^2*D`` operations forward and ``2*N^2*D`` to ``3*N^2*D`` backward (`logsumexp_similarity` of rows with
    themselves), and those of `gather_similarity`; ``O(N*P + N*D)`` memory.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.graph_nt_xent(torch.eye(4).repeat(2, 1), torch.arange(8).roll(4)[:, None], temperature=0.5)
    tensor(0.5944)
    """
    check_batch("graph_nt_xent", "z", check_rows("graph_nt_xent", "z", z))
    positive = check_places("graph_nt_xent", "positive", positive, "z", z, z.shape[0])
    if weight is not None:
        check_floating("graph_nt_xent", "weight", check_tensor("graph_nt_xent", "weight", weight, "(N, P)"))
        check_device("graph_nt_xent", "weight", weight, "z", z)
        if weight.shape != positive.shape:
            raise ValueError(
                f"graph_nt_xent: weight has shape {shape_of(weight)} and positive {shape_of(positive)}; "
                "both need the same."
            )
    temperature = check_temperature("graph_nt_xent", temperature)
    normalize = check_flag("graph_nt_xent", "normalize", normalize)
    check_choice("graph_nt_xent", "reduction", reduction, REDUCTIONS)
    z = multiplied(z, normalize, backend)
    scale = scale_tensor(temperature, z).reciprocal()
    own = torch.arange(z.shape[0], device=z.device)[:, None]
    columns, order = torch.where(positive == own, -1, positive.long()).sort(1)
    others = logsumexp_similarity(z, None, scale, exclude=torch.cat([own, columns], 1), backend=backend)
    logits = gather_similarity(z, z, columns, scale, backend=backend)
    losses = softplus(_rest(others, logits, columns) - logits).masked_fill(columns < 0, 0)
    if weight is not None:
        losses = weight.to(losses.dtype).gather(1, order) * losses
    return reduced(losses.sum(1), reduction)


def _rest(others: Tensor, logits: Tensor, columns: Tensor) -> Tensor:
    """Return for each logit (N, P) the log-sum-exp of ``others`` (N,) and of the row's logits of other columns.

    ``columns`` are sorted. A column that comes twice counts once: it is added at its last place for those behind it,
    and at its first place for those before it. Nothing is subtracted, since little would be left of it.
    """
    first, last = starts(columns), starts(columns.flip(1)).flip(1)
    peak = torch.cat([others[:, None], logits], 1).detach().amax(1, keepdim=True)
    peak = peak.clamp_min(torch.finfo(peak.dtype).min)  # a row that has nothing at all sums to zero, not to NaN
    terms = torch.exp(logits - peak)
    before, after = _sums_before(terms * last), _sums_before((terms * first).flip(1)).flip(1)
    total = torch.exp(others[:, None] - peak) + before + after
    nothing = total == 0
    return total.masked_fill(nothing, 1).log().masked_fill(nothing, -torch.inf) + peak


def _sums_before(terms: Tensor) -> Tensor:
    return F.pad(terms, (1, 0))[:, :-1].cumsum(1)


def starts(columns: Tensor) -> Tensor:
    """Mark where a number begins in sorted rows."""
    return F.pad(columns[:, 1:] != columns[:, :-1], (1, 0), value=True)[:, : columns.shape[1]]


def _same_rows(positive: Tensor, pool: Tensor, index: Tensor) -> Tensor:
    """Mark the entries (N, K) that name a row of the pool with the bits of the positive."""
    inside = (index >= 0) & (index < pool.shape[0])
    marks = F.pad(_fingerprints(pool), (0, 1))[torch.where(inside, index, pool.shape[0])]
    return inside & (marks == _fingerprints(positive)[:, None])


def _fingerprints(rows: Tensor) -> Tensor:
    """Sum the rows' bits, 32 or 16 at a time, each times an odd number that depends on its place, modulo 2^64.

    Equal rows give equal sums in any order of summation. docs/design/sampled.md says how seldom others do.
    """
    bits = rows.detach().contiguous().view(torch.int16 if rows.element_size() == 2 else torch.int32)
    place = torch.arange(1, bits.shape[1] + 1, device=rows.device) * -7046029254386353131  # as splitmix64 spreads bits
    place = (place ^ (place >> 30)) * -4658895280553007687
    return (bits * (place ^ (place >> 27) | 1)).sum(1)


def multiplied(rows: Tensor, normalize: bool, backend: str | None) -> Tensor:
    """Return the rows as they are multiplied: of unit length if wanted, and in the dtype of products."""
    return unit_rows(rows, backend=backend) if normalize else rows.to(compute_dtype(rows))


def _logsumexp(logits: Tensor) -> Tensor:
    """Compute the log-sum-exp of rows; one of nothing but -inf has a gradient of zero, where torch's is NaN."""
    nothing = (logits == -torch.inf).all(1)
    return logits.masked_fill(nothing[:, None], 0).logsumexp(1).masked_fill(nothing, -torch.inf)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def check_batch(function: str, name: str, rows: Tensor) -> None:
    if rows.shape[0] == 0:
        raise ValueError(f"{function}: {name} has shape {shape_of(rows)}; pass a batch of at least one row.")
