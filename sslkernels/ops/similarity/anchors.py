# SPDX-License-Identifier: Apache-2.0
"""Treat anchors one by one, in plain PyTorch: list what each leaves out, and turn sums into losses and weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.ops.similarity.schema import Pairs


def left_out_by(pairs: Pairs) -> Tensor | None:
    """List the columns (N, E) that each row leaves out; None if no row leaves any."""
    if not pairs.views:
        return pairs.exclude
    n, device = pairs.x.shape[0], pairs.x.device
    views = torch.arange(pairs.views, device=device) * (n // pairs.views)
    return pairs.start + (torch.arange(n, device=device)[:, None] + views).remainder(max(n, 1))


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
