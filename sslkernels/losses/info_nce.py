# SPDX-License-Identifier: Apache-2.0
"""InfoNCE as in info-nce-pytorch.

It has a module of its own, named as the library's, so that it is not taken for `sslkernels.losses.InfoNCELoss`:

    - from info_nce import InfoNCE
    + from sslkernels.losses.info_nce import InfoNCE
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    REDUCTIONS,
    check_alike,
    check_choice,
    check_pair,
    check_rows,
    check_temperature,
    shape_of,
)
from sslkernels.functional.sampled import sampled_info_nce
from sslkernels.functional.similarity import info_nce
from sslkernels.modules import Module
from sslkernels.ops.rows import unit_rows

__all__ = ["InfoNCE"]


class InfoNCE(Module):
    """Find the key of each query among others, with the arguments of info-nce-pytorch.

    ``from sslkernels.losses.info_nce import InfoNCE`` is the whole change.

    Args:
        temperature: non-zero number, or one-element tensor, which receives its gradient.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.
        negative_mode: ``"unpaired"`` for negatives ``(M, D)`` that all queries share, ``"paired"`` for ``(N, M, D)``, M
            for each query.

    ``forward(query, positive_key, negative_keys=None)`` with ``(N, D)`` each. Without ``negative_keys`` the other keys
    are the negatives. All rows are divided by their norms. Cost: as `sslkernels.functional.info_nce`; ``"paired"``
    has ``6*N*M*D`` operations for value and gradient.

    >>> import torch
    >>> from sslkernels.losses.info_nce import InfoNCE
    >>> InfoNCE(temperature=1.0)(torch.eye(3), torch.eye(3))
    tensor(0.5514)
    """

    def __init__(self, temperature: float = 0.1, reduction: str = "mean", negative_mode: str = "unpaired") -> None:
        super().__init__()
        self.temperature = check_temperature("InfoNCE", temperature)
        self.reduction = check_choice("InfoNCE", "reduction", reduction, REDUCTIONS)
        self.negative_mode = check_choice("InfoNCE", "negative_mode", negative_mode, ("unpaired", "paired"))

    def forward(self, query: Tensor, positive_key: Tensor, negative_keys: Tensor | None = None) -> Tensor:
        check_pair("InfoNCE", {"query": query, "positive_key": positive_key})
        t, reduction = self.temperature, self.reduction
        if negative_keys is None:
            return info_nce(query, positive_key, temperature=t, reduction=reduction)
        paired = self.negative_mode == "paired"
        expected = "(N, M, D), M rows for each query" if paired else "(M, D)"
        check_rows("InfoNCE", "negative_keys", negative_keys, expected, dims=3 if paired else 2)
        if paired and negative_keys.shape[::2] != query.shape:
            raise ValueError(
                f"InfoNCE: query has shape {shape_of(query)} and negative_keys {shape_of(negative_keys)}; "
                'with negative_mode="paired" both need the same rows and features.'
            )
        flat = negative_keys.flatten(0, 1) if paired else negative_keys
        check_alike("InfoNCE", "negative_keys", flat, "query", query, rows=False)
        if not paired:
            return info_nce(query, positive_key, negatives=unit_rows(negative_keys), temperature=t, reduction=reduction)
        index = torch.arange(len(flat), device=flat.device).view(negative_keys.shape[:2])
        return sampled_info_nce(query, positive_key, flat, index, equal="keep", temperature=t, reduction=reduction)
