# SPDX-License-Identifier: Apache-2.0
"""Make a teacher's logits targets, centred or balanced, and compare a student's logits with them.

Sinkhorn-Knopp, which scales the rows and columns of exp(l / t) in turn, is a softmax with a bias u_k of each prototype:

    u_k = -lse_i(l_ik / t + v_i),    v_i = -lse_k(l_ik / t + u_k)    three times, from v = 0;    P = softmax(l / t + u)

Sums of exponentials stay logarithms, and no size of the logits overflows. The authors' number of samples and of
prototypes, and the sum of all entries, cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard, logsumexp_over_ranks
from sslkernels.ops.dtypes import widened


@torch.no_grad()
def centred(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Return ``softmax((logits - center) / temperature)`` over the last dimension, in the dtype of sums."""
    logits = widened(logits)
    return torch.softmax((logits - center.to(logits.dtype)) / temperature, -1)


@torch.no_grad()
def balanced(
    logits: Tensor,
    temperature: float,
    iterations: int,
    shard: Shard = Shard.alone,
    start: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Return targets in which all prototypes have nearly the same share, as Sinkhorn-Knopp does.

    Args:
        logits: ``(..., N, K)``; every leading place is a problem of its own.
        iterations: of the authors' loop, at least one.
        shard: ranks whose N rows are balanced together. Each sends K numbers twice for each iteration and problem.
        start: ``v`` at the beginning, ``(..., N, 1)``.
        counted: bool ``(N, 1)``; rows that are False get targets, and have no part in the balance.
    """
    logits = widened(logits) / temperature
    offset = torch.zeros_like(logits[..., :1]) if start is None else start
    for _ in range(iterations):
        weighed = logits + offset
        if counted is not None:
            weighed = weighed.masked_fill(~counted, -torch.inf)
        lse = logsumexp_over_ranks(weighed.logsumexp(-2, keepdim=True), shard)
        bias = -lse.masked_fill(lse == -torch.inf, 0)  # no row counts at all
        offset = -(logits + bias).logsumexp(-1, keepdim=True)
    return torch.softmax(logits + bias, -1)


def soft_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``-sum_k targets_k * log softmax(logits / temperature)_k``, ``(...,)`` in the dtype of sums.

    The loss with several teachers' targets is that with their sum, for one softmax.
    """
    if not torch.compiler.is_compiling() and targets.is_inference():  # autograd refuses to keep them
        targets = targets.clone()
    return -(targets * torch.log_softmax(widened(logits) / temperature, -1)).sum(-1)
