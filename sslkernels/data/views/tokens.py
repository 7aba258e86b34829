# SPDX-License-Identifier: Apache-2.0
"""Random views of sequences of numbered words or items."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import came, check_number, check_tensor
from sslkernels.data.views.drawn import Drawn, uniform


class TokenViews(Drawn):
    """Map sequences ``(N, L)`` with 0 as padding to ``count`` views: a part in one piece, less some of its tokens.

    What is left moves to the front, and padding follows (CoLES, Babaev et al. 2022, takes sub-sequences too).

    Args:
        count: number of views.
        share: the least part of a sequence that is taken.
        dropped: probability of each token in it to be left out.

    >>> import torch
    >>> from sslkernels.data import TokenViews
    >>> first, second = TokenViews()(torch.randint(1, 100, (4, 16)))
    >>> first.shape
    torch.Size([4, 16])
    """

    def __init__(self, count: int = 2, share: float = 0.5, dropped: float = 0.15) -> None:
        super().__init__(count)
        self.share = check_number("TokenViews", "share", share, above=0, most=1)
        self.dropped = check_number("TokenViews", "dropped", dropped, least=0, most=1)

    def draw(self, batch: Tensor) -> Tensor:
        check_tensor("TokenViews", "batch", batch, "(N, L), int64")
        if batch.dtype != torch.int64 or batch.dim() != 2:
            raise ValueError(f"TokenViews: batch is {came(batch)}; pass int64 of shape (N, L), with 0 as padding.")
        held = batch != 0
        lengths = held.sum(1, keepdim=True).float()
        taken = (uniform(self.share, 1, len(batch), 1, like=lengths) * lengths).ceil()
        start = ((lengths - taken + 1) * torch.rand_like(lengths)).floor()
        order = held.cumsum(1) - 1
        kept = (
            held
            & (order >= start)
            & (order < start + taken)
            & (torch.rand(batch.shape, device=batch.device) >= self.dropped)
        )
        kept |= held & (order == start) & ~kept.any(1, keepdim=True)  # a view has at least one token
        moved = (~kept).long().argsort(dim=1, stable=True)
        return (batch * kept).gather(1, moved)
