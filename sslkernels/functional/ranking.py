# SPDX-License-Identifier: Apache-2.0
"""Rank the right document of each query first: the loss behind sentence-transformers' MultipleNegativesRankingLoss.

    loss_i = log Z_i - p_i,   p_i = scale * <q_i, d_i>

Z_i holds e^p_i once for each direction that has the pair, c times in all. With the log-sum-exp L_i of everything else,
``loss_i = log c + softplus(L_i - p_i - log c)``, which keeps the gradient of pairs that are well aligned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import check_alike, check_rows
from sslkernels.distributed import GroupLike, Shard, gather_rows, named
from sslkernels.functional.similarity import computed, info_nce, sharded
from sslkernels.ops.dtypes import compute_dtype, promoted
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity import logsumexp_similarity
from sslkernels.ops.similarity.anchors import losses_of


def ranking(
    queries: Tensor,
    documents: Sequence[Tensor],
    scale: float,
    *,
    normalize: bool = True,
    directions: Sequence[str] = ("query_to_doc",),
    joint: bool = True,
    harder: tuple[float, float] = (0.0, 0.0),
    group: GroupLike = None,
) -> Tensor:
    """Average ``log Z_i - p_i`` over the queries. The mean over ranks is that of all queries.

    Args:
        queries: ``(N, D)``.
        documents: the queries' own documents, and then any number of negatives of each, ``(N, D)`` every one.
        scale: the factor of the logits, a positive number.
        normalize: divide rows by their norms first.
        directions: what is in Z_i. "query_to_doc", which must be there: q_i with every document. "query_to_query": q_i
            with the other queries. "doc_to_query": d_i with every query. "doc_to_doc": d_i with the documents of the
            other queries.
        joint: one Z of all directions, or the mean of one log Z for each, for directions that have the pair.
        harder: added to the scale of a query's logits with the documents of others, and with its own negatives. It
            moves the weights of Z alone: the gradient of a logit is still ``scale`` times its weight.
        group: take the rows of all its ranks as queries and documents.

    Cost: ``8*B*M*D`` operations for value and gradient of "query_to_doc", for B queries of this rank and M documents of
    all, and ``O((B + M)*D)`` memory. Pairs alone take what `info_nce` takes.
    """
    check_rows("ranking", "queries", queries)
    for place, each in enumerate(documents):
        name = f"documents[{place}]"
        check_alike("ranking", name, check_rows("ranking", name, each), "queries", queries, rows=True)
    symmetric = not joint and "doc_to_query" in directions
    if len(documents) == 1 and not any(harder) and (symmetric or set(directions) == {"query_to_doc"}):
        key = documents[0]  # the pairs are one node
        return info_nce(queries, key, temperature=1 / scale, normalize=normalize, symmetric=symmetric, group=group)

    rows = promoted(queries, *documents) if normalize else computed(queries, *documents)
    settings = {"scale": scale, "normalize": normalize, "directions": sorted(set(directions)), "joint": joint}
    settings |= {"harder": harder, "documents": len(documents), "dtype": named(compute_dtype(rows[0]))}
    shard = sharded(group, "ranking", *rows, **settings)
    if normalize:
        rows = tuple(unit_rows(each) for each in rows)
    query, document, *negatives = rows
    every_query, *columns = (gather_rows(each, shard) for each in rows)
    every_document = columns[0] if not negatives else torch.cat(columns)
    own = shard.start, len(every_query)  # row i's own query, or all of its documents
    of_others, of_negatives = (scale + more for more in harder)

    positive = scale * row_dot(query, document)
    sums = {}
    if "doc_to_query" in directions and shard.ranks == 1 and of_others == scale:  # one pass over one matrix
        others, by_column = logsumexp_similarity(query, every_document, scale, exclude=own, dim="both")
        sums["doc_to_query"] = by_column[: len(document)]
    else:
        others = logsumexp_similarity(query, every_document, of_others, exclude=own)
        if "doc_to_query" in directions:
            sums["doc_to_query"] = logsumexp_similarity(document, every_query, scale, exclude=own)
    hard = [_slowed(of_negatives * row_dot(query, each), scale / of_negatives) for each in negatives]
    sums["query_to_doc"] = _sum([_slowed(others, scale / of_others), *hard])
    if "query_to_query" in directions:
        sums["query_to_query"] = _against(query, every_query, scale, own)
    if "doc_to_doc" in directions:
        sums["doc_to_doc"] = _against(document, every_document, scale, own)

    if not joint:
        return _mean(torch.stack([losses_of(each, positive) for each in sums.values()]).mean(0), shard)
    pairs = math.log(1 + ("doc_to_query" in directions))
    return _mean(losses_of(_sum(list(sums.values())), positive + pairs) + pairs, shard)


def _against(rows: Tensor, others: Tensor, scale: float, own: tuple[int, int]) -> Tensor:
    return logsumexp_similarity(rows, None if others is rows else others, scale, exclude=own)


def _slowed(x: Tensor, share: float) -> Tensor:
    """Return ``x`` with this share of its gradient."""
    return x if share == 1 else share * x + (1 - share) * x.detach()


def _sum(logs: list[Tensor]) -> Tensor:
    """Return the logarithm of the sum of exponentials. A row of which nothing was left, -inf, has no gradient here."""
    if len(logs) == 1:
        return logs[0]
    stack = torch.stack(logs)
    return torch.logsumexp(stack.clamp_min(torch.finfo(stack.dtype).min), 0)  # of -inf alone it would be NaN


def _mean(losses: Tensor, shard: Shard) -> Tensor:
    return losses.sum() * (shard.ranks / shard.total(len(losses)))
