# SPDX-License-Identifier: Apache-2.0
"""Treat anchors one by one, in plain PyTorch: list what each leaves out, and turn sums into losses and weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.similarity.schema import Pairs
from sslkernels.ops.softplus import softplus


def left_out_by(pairs: Pairs) -> Tensor:
    """Return which pairs are left out, as booleans (N, M)."""
    n, m, device = pairs.x.shape[0], (pairs.x if pairs.y is None else pairs.y).shape[0], pairs.x.device
    left_out = torch.zeros(n, m + 1, dtype=torch.bool, device=device)  # -1 marks the spare column
    if pairs.exclude is not None and n > 0:
        left_out.scatter_(1, torch.where(pairs.exclude < 0, m, pairs.exclude), True)
    left_out = left_out[:, :-1]
    if pairs.views and n > 0:
        rows, columns = torch.arange(n, device=device)[:, None], torch.arange(m, device=device)
        along = columns - pairs.start - (pairs.first + rows).remainder(pairs.step)
        left_out = left_out | ((along >= 0) & (along < pairs.views * pairs.step) & (along.remainder(pairs.step) == 0))
    if pairs.row_labels is not None:
        labels = pairs.row_labels if pairs.col_labels is None else pairs.col_labels
        left_out = left_out | ((pairs.row_labels[:, None] == labels) == pairs.alike)
    return left_out


def beside(lse: Tensor, margin: float) -> Tensor:
    """Raise the log-sum-exps of negatives, which is to take ``margin`` from the logit of each positive."""
    return lse + margin if margin else lse


def losses_of(lse: Tensor, logits: Tensor) -> Tensor:
    """Compute softplus(lse - logit), and return the difference itself where fp32 cannot tell them apart.

    An infinite positive would pass for a perfect match; its loss is NaN.
    """
    share = logits.nan_to_num(torch.nan, torch.nan, -torch.inf)
    return softplus(lse - share)


def weights_of(lse: Tensor, logits: Tensor, grad: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the gradient of lse, and minus that of logits, for the gradient of the losses.

    Beside an infinite positive only infinite negatives count, and its own gradient is NaN.
    """
    beside = grad * torch.sigmoid(lse - logits.clamp_max(torch.finfo(logits.dtype).max))
    return beside, torch.add(beside, logits.clamp_min(0), alpha=0)
