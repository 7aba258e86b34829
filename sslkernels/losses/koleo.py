# SPDX-License-Identifier: Apache-2.0
"""KoLeo as a module, with lightly's arguments."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_number
from sslkernels.functional.koleo import spread_neighbours
from sslkernels.modules import Module


class KoLeoLoss(Module):
    """`sslkernels.functional.koleo` with lightly's arguments: ``from sslkernels.losses import KoLeoLoss``.

    Args:
        p: the power of the norm that measures the distance to the nearest row, a positive number. Which row is nearest
            is a matter of the Euclidean distance.
        eps: as in `sslkernels.functional.koleo`.

    ``forward(x)`` with ``(N, D)``, ``N >= 2``, gives a 0-dim loss. Rows of 16 bits are computed in float32, where
    lightly's are infinite in float16 if two of them are equal.

    >>> import torch
    >>> from sslkernels.losses import KoLeoLoss
    >>> KoLeoLoss()(torch.eye(3))
    tensor(-0.3466)
    """

    def __init__(self, p: float = 2, eps: float = 1e-8) -> None:
        super().__init__()
        self.p = check_number("KoLeoLoss", "p", p, above=0.0)
        self.eps = check_number("KoLeoLoss", "eps", eps, above=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return spread_neighbours("KoLeoLoss", "x", x, self.eps, self.p)
