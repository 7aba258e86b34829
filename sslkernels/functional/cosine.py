# SPDX-License-Identifier: Apache-2.0
"""Agreement of rows: what BYOL and SimSiam maximise, with nothing that pushes other rows apart."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sslkernels.distributed import GroupLike


def negative_cosine_similarity(
    x0: Tensor,
    x1: Tensor,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    return -F.cosine_similarity(x0, x1, dim=1, eps=eps).mean()


def byol_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    return 2 + 2 * negative_cosine_similarity(prediction, target, eps=1e-12)
