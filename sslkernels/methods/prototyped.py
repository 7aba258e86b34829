# SPDX-License-Identifier: Apache-2.0
"""Pair rows and weigh them among ranks, and tell how prototypes are used, for all methods with prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.distributed import GroupLike, shard_of
from sslkernels.ops.dtypes import wide

# Numbers of a run that DINO, iBOT, MSN and DINOv2 share. DINO and iBOT clip the gradient of each weight apart, and not
# all together.
STEADIED = {"weight_decay": 0.04, "final_weight_decay": 0.4, "clip_gradients": 3.0}
# Rows of a batch whose use of prototypes is watched. All K logits of a row are computed for that.
WATCHED = 64


def row_weight(function: str, views: Sequence[Tensor], terms: int, group: GroupLike) -> Tensor | None:
    """Weigh the rows of several views ``(N, D)``, of whose samples each has so many terms in a mean.

    With these weights the mean over ranks is the mean over all samples: ranks with more of them weigh more. Where all
    have as many, the result is None, which stands for the mean over a rank's own.
    """
    shard = shard_of(group, function, views[0])
    if len(set(shard.sizes)) <= 1:
        return None
    count = len(views[0])
    weight = shard.ranks / (terms * shard.total(count))
    return torch.full((len(views) * count,), weight, dtype=wide(views[0].dtype), device=views[0].device)


def followed(views: int, teacher: Tensor) -> Tensor:
    """Say which rows of a teacher with two views, ``(N, D)`` each, the rows of each view follow: all but their own.

    The result is ``(views * N, 2)``, with -1 for none.
    """
    own = torch.arange(len(teacher), device=teacher.device)
    both = torch.stack([own, own + len(teacher)], 1).repeat(views, 1, 1)
    both[0, :, 0] = both[1, :, 1] = -1
    return both.flatten(0, 1)


@torch.no_grad()
def usage(rows: Tensor, weight: Tensor, temperature: float | Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Measure how rows ``(N, D)`` use prototypes ``(K, D)``: four numbers that tell how a teacher collapses.

    With ``p_i = softmax(t_i W^T / temperature + bias)``: ``teacher_entropy``, the mean of the entropies of the p_i, is
    log K where the teacher is never sure; ``largest_probability``, the mean of their largest numbers, is 1 where it is
    always sure; ``effective_prototypes``, exp of the entropy of the mean of the p_i, is 1 where all rows get the same
    prototype, and ``largest_share``, the largest number of that mean, is 1 then. The first `WATCHED` rows are looked
    at. `sslkernels.evaluation.targets_warning` reads them.
    """
    logits = rows[:WATCHED].float() @ weight.float().T / temperature
    p = torch.softmax(logits if bias is None else logits + bias, 1)
    mean = p.mean(0)
    return {
        "teacher_entropy": torch.special.entr(p).sum(1).mean(),
        "largest_probability": p.amax(1).mean(),
        "effective_prototypes": torch.special.entr(mean).sum().exp(),
        "largest_share": mean.amax(),
    }
