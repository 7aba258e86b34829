# SPDX-License-Identifier: Apache-2.0
"""Predict the balanced assignment of another crop, as lightly's SwaVLoss does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import check_device, check_list, check_number, check_rows, check_size, shape_of
from sslkernels.distributed import GroupLike, check_gathered
from sslkernels.functional.assignments import balanced, soft_cross_entropy
from sslkernels.functional.similarity import sharded
from sslkernels.modules import Module
from sslkernels.ops.dtypes import promoted

CROPS = "a list of crops (N, K)"


class SwaVLoss(Module):
    """SwAV (Caron et al. 2020) with lightly's arguments: ``from sslkernels.losses import SwaVLoss``.

    Each large crop i has codes Q_i, its balanced assignments to prototypes. The mean over i of the sum over all other
    crops v of the cross-entropy of ``softmax(v / temperature)`` with Q_i, divided by the number of other crops.

    Args:
        temperature: of the crops' softmax, a positive number.
        sinkhorn_iterations: in which codes are balanced.
        sinkhorn_epsilon: temperature of the codes, a positive number.
        sinkhorn_gather_distributed: balance over the rows of every rank; the mean over ranks is the loss of the
            concatenated batch then.

    ``forward(high_resolution_outputs, low_resolution_outputs, queue_outputs=None)``: lists of similarities to the
    prototypes, ``(N, K)`` each; of the queue one ``(M, K)`` for each large crop, which is balanced with it. The loss
    has shape ``(1,)``, as lightly's. Codes get no gradient. Similarities may have any size, where the exponentials of
    the authors' code overflow. A crop's softmax is computed once for all codes.

    >>> import torch
    >>> from sslkernels.losses import SwaVLoss
    >>> SwaVLoss(temperature=1.0)([torch.eye(3), torch.eye(3)], [torch.zeros(3, 3)])
    tensor([0.8250])
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sinkhorn_iterations: int = 3,
        sinkhorn_epsilon: float = 0.05,
        sinkhorn_gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = check_number("SwaVLoss", "temperature", temperature, above=0.0)
        self.sinkhorn_iterations = check_size("SwaVLoss", "sinkhorn_iterations", sinkhorn_iterations)
        self.sinkhorn_epsilon = check_number("SwaVLoss", "sinkhorn_epsilon", sinkhorn_epsilon, above=0.0)
        self.sinkhorn_gather_distributed = check_gathered(
            "SwaVLoss", sinkhorn_gather_distributed, "sinkhorn_gather_distributed"
        )

    def forward(
        self,
        high_resolution_outputs: Sequence[Tensor],
        low_resolution_outputs: Sequence[Tensor],
        queue_outputs: Sequence[Tensor] | None = None,
    ) -> Tensor:
        high = check_list("SwaVLoss", "high_resolution_outputs", high_resolution_outputs, CROPS)
        low = check_list("SwaVLoss", "low_resolution_outputs", low_resolution_outputs, CROPS)
        queue = [] if queue_outputs is None else check_list("SwaVLoss", "queue_outputs", queue_outputs, CROPS)
        _check_crops(high, low, queue, queue_outputs is not None)
        group: GroupLike = "world" if self.sinkhorn_gather_distributed else None
        settings = {"iterations": self.sinkhorn_iterations, "epsilon": self.sinkhorn_epsilon, "crops": len(high)}
        shard, codes = sharded(group, "SwaVLoss", high[0].detach(), **settings), []
        for place, crop in enumerate(high):
            rows = crop.detach()
            if queue:
                rows = torch.cat(promoted(rows, queue[place].detach()))
            codes.append(balanced(rows, self.sinkhorn_epsilon, self.sinkhorn_iterations, shard)[: len(crop)])
        total = codes[0].new_zeros(1)
        for place, crop in enumerate([*high, *low]):
            others = [code for other, code in enumerate(codes) if other != place]
            if others:
                total = total + soft_cross_entropy(crop, sum(others[1:], others[0]), self.temperature).sum()
        pairs = len(high) * (len(high) + len(low) - 1)
        return total * (shard.ranks / (pairs * shard.total(len(high[0]))))


def _check_crops(high: list[Tensor], low: list[Tensor], queue: list[Tensor], queued: bool) -> None:
    named = {"high_resolution_outputs": high, "low_resolution_outputs": low, "queue_outputs": queue}
    for name, crops in named.items():
        for place, crop in enumerate(crops):
            check_rows("SwaVLoss", f"{name}[{place}]", crop, "(N, K), similarities to the prototypes")
            check_device("SwaVLoss", f"{name}[{place}]", crop, "high_resolution_outputs[0]", high[0] if high else crop)
    if not high or len(high) + len(low) < 2:
        raise ValueError(
            f"SwaVLoss: high_resolution_outputs has length {len(high)} and low_resolution_outputs {len(low)}; "
            "pass a large crop at least, and another crop."
        )
    if queued and len(queue) != len(high):
        raise ValueError(
            f"SwaVLoss: queue_outputs has length {len(queue)} and high_resolution_outputs {len(high)}; "
            "pass what each large crop's queue is assigned to."
        )
    first = high[0]
    for name, crops in named.items():
        for place, crop in enumerate(crops):
            other_rows = len(crop) != len(first) and name != "queue_outputs"
            if other_rows or crop.shape[1] != first.shape[1] or not len(first):
                raise ValueError(
                    f"SwaVLoss: high_resolution_outputs[0] has shape {shape_of(first)} and {name}[{place}] "
                    f"{shape_of(crop)}; pass crops of the same images, at least one, and the same prototypes."
                )
