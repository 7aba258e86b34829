# SPDX-License-Identifier: Apache-2.0
"""Keep the moving average of a teacher's logits, which is taken off them so that no prototype has everything."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from sslkernels.arguments import check_count, check_number, shape_of
from sslkernels.distributed import shard_of, summed
from sslkernels.modules import Remembering
from sslkernels.ops.dtypes import widened


class Centred(Remembering):
    """A loss, or a part of one, with a ``center`` of K prototypes in float32, which is saved and loaded.

    ``center <- momentum * center + (1 - momentum) * mean``, where the mean is that of all rows of all ranks: ranks that
    hold more rows count more. The authors of DINOv2 take the mean of the ranks' means; where ranks hold the same number
    both are the same.
    """

    remembered: ClassVar[tuple[str, ...]] = ("center",)
    center: Tensor

    def __init__(self, function: str, name: str, prototypes: object, dims: int, momentum: float) -> None:
        """``name`` is what the caller calls the number of prototypes; the other ``dims`` - 1 dimensions are 1."""
        super().__init__()
        self.center = torch.zeros((1,) * (dims - 1) + (check_count(function, name, prototypes, 1),))
        self.center_momentum = check_number(function, "center_momentum", momentum, least=0.0, most=1.0)
        self._function = function

    @torch.no_grad()
    def _move_center(self, sums: Tensor, rows: int) -> None:
        """Move the centre towards the mean of the rows of all ranks, given the sums ``(K,)`` of this one's."""
        self._move_to(*self._over_ranks(sums, rows))

    def _over_ranks(self, sums: Tensor, rows: int) -> tuple[Tensor, int]:
        self.agree("world")
        # The exchange counts the rows of a tensor: this one holds nothing else.
        counted = sums.new_empty(1).expand(rows, len(sums))
        shard = shard_of("world", f"{self._function}, its center", counted, momentum=self.center_momentum)
        return summed(sums, shard), shard.total(rows)

    def _move_to(self, sums: Tensor, rows: int) -> None:
        if rows:
            kept = self.center_momentum
            self.center.copy_(kept * self.center + (1 - kept) * (sums / rows).view_as(self.center))


def sums_of(logits: Tensor) -> Tensor:
    """Sum all rows of the logits ``(..., K)``."""
    return widened(logits.detach()).flatten(0, -2).sum(0)


def check_prototypes(function: str, name: str, logits: Tensor, center: Tensor) -> Tensor:
    """Check that logits and centre have as many prototypes."""
    if logits.shape[-1] != center.shape[-1]:
        raise ValueError(
            f"{function}: {name} has shape {shape_of(logits)} and the center {shape_of(center)}; "
            "both need the same number of prototypes."
        )
    return logits
