# SPDX-License-Identifier: Apache-2.0
"""Run the attention family in plain PyTorch: the specification of every other backend, and a backend of its own.

Logits and weights are fp32 (fp64 for fp64 input) and stored whole, in O(N*M) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.attention.schema import Attention, Wanted
from sslkernels.ops.dtypes import widened
from sslkernels.ops.similarity.anchors import left_out_by
from sslkernels.ops.similarity.schema import Pairs


def forward(attention: Attention) -> tuple[Tensor, Tensor]:
    """Return O = P @ values and the log-sum-exps of rows, with P = softmax(logits).

    The log-sum-exp of a row with a logit of infinity, whose weights are NaN, is NaN.
    """
    logits, out = _logits(attention)
    lse = logits.logsumexp(1)
    return _weights(logits, out) @ widened(attention.values), lse.masked_fill(lse == torch.inf, torch.nan)


def backward(
    attention: Attention, out: Tensor, lse: Tensor, grad: Tensor, wanted: Wanted
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dS @ keys, dS.T @ query, P.T @ grad and the column sums of dS = P * (grad @ values.T - <grad, O>)."""
    logits, left_out = _logits(attention)
    weights = _weights(logits, left_out)
    of_values = weights.T @ grad if wanted.of_values else logits.new_empty(0)
    slopes = weights * (grad @ widened(attention.values).T - (grad * out).sum(1, keepdim=True))
    slopes = slopes.masked_fill(left_out, 0)
    return (
        slopes @ widened(attention.keys) if wanted.of_query else logits.new_empty(0),
        slopes.T @ widened(attention.query) if wanted.of_keys else logits.new_empty(0),
        of_values,
        slopes.sum(0) if wanted.of_bias else logits.new_empty(0),
    )


def _logits(attention: Attention) -> tuple[Tensor, Tensor]:
    """Return the logits, -inf where a pair is left out, and which pairs are."""
    query, keys, _, scale, bias, exclude = attention
    logits = scale * (widened(query) @ widened(keys).T)
    logits = logits if bias is None else logits + bias
    left_out = left_out_by(Pairs(query, keys, scale, exclude))
    return logits.masked_fill(left_out, -torch.inf), left_out


def _weights(logits: Tensor, left_out: Tensor) -> Tensor:
    nothing = (logits == -torch.inf).all(1, keepdim=True)
    return torch.softmax(logits, 1).masked_fill(nothing | left_out, 0)
