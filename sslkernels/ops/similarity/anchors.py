# SPDX-License-Identifier: Apache-2.0
"""Turn log-sum-exps of negatives and logits of positives into losses and their weights, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def losses_of(lse: Tensor, logits: Tensor) -> Tensor:
    """Compute softplus(lse - logit), and return the difference itself where fp32 cannot tell them apart.

    An infinite positive would pass for a perfect match; its loss is NaN.
    """
    share = logits.nan_to_num(torch.nan, torch.nan, -torch.inf)
    return F.softplus(lse - share, threshold=40)


def weights_of(lse: Tensor, logits: Tensor, grad: Tensor | float) -> tuple[Tensor, Tensor]:
    """Return the gradient of lse, and minus that of logits, for the gradient of the losses.

    Beside an infinite positive only infinite negatives count, and its own gradient is NaN.
    """
    beside = grad * torch.sigmoid(lse - logits.clamp_max(torch.finfo(logits.dtype).max))
    return beside, torch.add(beside, logits.clamp_min(0), alpha=0)
