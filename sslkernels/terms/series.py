# SPDX-License-Identifier: Apache-2.0
"""Yes or no of a series: does it run backwards, are its pieces shuffled, was its time warped?"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_rows
from sslkernels.data import Permuted, Reversed, Warped
from sslkernels.terms.task import Task


class Changed(Task):
    """Tell if a series ``(N, C, T)`` was changed; half of a batch is, by chance."""

    chains = True
    change: Reversed | Permuted | Warped

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim, classes=2)

    def draw(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        check_rows(type(self).__name__, "inputs", inputs, "series (N, C, T)", dims=3)
        changed = torch.rand(len(inputs), device=inputs.device) < 0.5
        return self.change.applied(inputs, changed), changed.long()


class Reversal(Changed):
    """Tell if a series runs backwards, the arrow of time (Yuan et al. 2024, arXiv 2206.02909).

    >>> import torch
    >>> from sslkernels.terms import Reversal
    >>> changed, answers = Reversal(feature_dim=16).draw(torch.randn(4, 6, 100))
    >>> changed.shape, answers.shape
    (torch.Size([4, 6, 100]), torch.Size([4]))
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)
        self.change = Reversed()


class Permutation(Changed):
    """Tell if the quarters of a series were shuffled (Yuan et al. 2024, arXiv 2206.02909).

    >>> import torch
    >>> from sslkernels.terms import Permutation
    >>> Permutation(feature_dim=16).draw(torch.randn(4, 6, 100))[0].shape
    torch.Size([4, 6, 100])
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)
        self.change = Permuted(4)


class Warp(Changed):
    """Tell if parts of a series were stretched and others squeezed (Yuan et al. 2024, arXiv 2206.02909).

    >>> import torch
    >>> from sslkernels.terms import Warp
    >>> Warp(feature_dim=16).draw(torch.randn(4, 6, 100))[0].shape
    torch.Size([4, 6, 100])
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim)
        self.change = Warped(deviation=0.8)
