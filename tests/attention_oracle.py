# SPDX-License-Identifier: Apache-2.0
"""The attention family in float64, one row at a time, as the formula reads. It shares no code with the library.

`rows_oracle.gradients` differentiates the values by plain autograd.
"""

from __future__ import annotations

import torch
from rows_oracle import stack
from similarity_oracle import left_out
from torch import Tensor


def attend_similarity(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float | Tensor = 1.0,
    bias: Tensor | None = None,
    exclude: Tensor | None = None,
) -> Tensor:
    """Average the values (N, Dv) of each row under the softmax of its logits; a row with nothing left is 0."""
    query, keys, values = query.double(), keys.double(), values.double()
    out, rows = left_out(exclude, query.shape[0], keys.shape[0]), []
    for i in range(query.shape[0]):
        kept = [j for j in range(keys.shape[0]) if j not in out[i]]
        if not kept:
            rows.append(0 * values.sum(0))
            continue
        logits = torch.as_tensor(scale, dtype=torch.float64) * (keys[kept] @ query[i])
        if bias is not None:
            logits = logits + bias.double()[kept]
        weights = torch.exp(logits - logits.detach().max())
        rows.append(weights @ values[kept] / weights.sum())
    return stack(rows) if rows else torch.zeros(0, values.shape[1], dtype=torch.float64)


def soft_cross_entropy(
    target_query: Tensor,
    target_keys: Tensor,
    query: Tensor,
    keys: Tensor,
    target_temperature: float,
    temperature: float,
    bias: Tensor,
) -> Tensor:
    """Cross-entropy (N,) of softmax(query @ keys.T / temperature) under the target's softmax, both written out."""
    target_logits = target_query.double() @ target_keys.double().T / target_temperature + bias.double()
    logits = query.double() @ keys.double().T / temperature
    target = torch.exp(target_logits - target_logits.detach().amax(1, keepdim=True))
    target = target / target.sum(1, keepdim=True)
    largest = logits.detach().amax(1, keepdim=True)
    predicted = logits - largest - torch.log(torch.exp(logits - largest).sum(1, keepdim=True))
    return -(target * predicted).sum(1)
