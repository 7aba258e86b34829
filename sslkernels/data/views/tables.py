# SPDX-License-Identifier: Apache-2.0
"""Random views of the rows of a table."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_number, check_rows
from sslkernels.data.views.drawn import Drawn


class TableViews(Drawn):
    """Map rows ``(N, D)`` to ``count`` views: each number is replaced by another row's, with some probability.

    So every column keeps its own distribution (SCARF, Bahri et al. 2022).

    Args:
        count: number of views.
        corrupted: probability that a number is replaced; SCARF has 0.6.

    >>> import torch
    >>> from sslkernels.data import TableViews
    >>> first, second = TableViews()(torch.randn(4, 18))
    >>> first.shape
    torch.Size([4, 18])
    """

    def __init__(self, count: int = 2, corrupted: float = 0.3) -> None:
        super().__init__(count)
        self.corrupted = check_number("TableViews", "corrupted", corrupted, least=0, most=1)

    def draw(self, batch: Tensor) -> Tensor:
        check_rows("TableViews", "batch", batch)
        donors = torch.randint(len(batch), batch.shape, device=batch.device)
        chosen = torch.rand_like(batch) < self.corrupted
        return torch.where(chosen, batch.gather(0, donors), batch)
