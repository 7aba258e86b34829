# SPDX-License-Identifier: Apache-2.0
"""The ranking loss of queries and documents from whole matrices, written from its definition, query by query."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_ranking(
    queries: Tensor,
    documents: list[Tensor],
    scale: float,
    normalize: bool = True,
    directions: tuple[str, ...] = ("query_to_doc",),
    joint: bool = True,
    harder: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    if normalize:
        queries, *documents = (each / each.norm(dim=1, keepdim=True) for each in (queries, *documents))
    count, losses = len(queries), []
    for i in range(count):
        logits: dict[str, list[Tensor]] = {direction: [] for direction in directions}
        for kind, column in enumerate(documents):
            for j in range(count):
                cosine = queries[i] @ column[j]
                more = harder[0] if j != i else harder[1] if kind > 0 else 0.0
                logits["query_to_doc"].append(scale * cosine + more * cosine.detach())
                if "doc_to_doc" in directions and j != i:
                    logits["doc_to_doc"].append(scale * documents[0][i] @ column[j])
        for j in range(count):
            if "doc_to_query" in directions:
                logits["doc_to_query"].append(scale * documents[0][i] @ queries[j])
            if "query_to_query" in directions and j != i:
                logits["query_to_query"].append(scale * queries[i] @ queries[j])
        parts = [sum(logits.values(), [])] if joint else list(logits.values())
        log_z = sum(torch.stack(part).logsumexp(0) for part in parts) / len(parts)
        losses.append(log_z - scale * queries[i] @ documents[0][i])
    return torch.stack(losses).mean()
