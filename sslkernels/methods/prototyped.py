# SPDX-License-Identifier: Apache-2.0
"""Weigh rows among ranks, and tell how prototypes are used, for all methods with prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.distributed import GroupLike, shard_of
from sslkernels.ops.dtypes import wide

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


@torch.no_grad()
def usage(rows: Tensor, weight: Tensor, temperature: float | Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Measure how rows ``(N, D)`` use prototypes ``(K, D)``: three numbers that tell how a teacher collapses.

    With ``p_i = softmax(t_i W^T / temperature + bias)``: ``teacher_entropy``, the mean of the entropies of the p_i, is
    log K where the teacher is never sure; ``largest_probability``, the mean of their largest numbers, is 1 where it is
    always sure; ``effective_prototypes``, exp of the entropy of the mean of the p_i, is 1 where all rows get the same
    prototype. The first `WATCHED` rows are looked at.
    """
    logits = rows[:WATCHED].float() @ weight.float().T / temperature
    p = torch.softmax(logits if bias is None else logits + bias, 1)
    return {
        "teacher_entropy": torch.special.entr(p).sum(1).mean(),
        "largest_probability": p.amax(1).mean(),
        "effective_prototypes": torch.special.entr(p.mean(0)).sum().exp(),
    }
