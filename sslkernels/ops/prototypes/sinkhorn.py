# SPDX-License-Identifier: Apache-2.0
"""Spread rows over prototypes by Sinkhorn-Knopp, whose result is a softmax with one bias for each prototype.

    v = 0;  repeat:  u_k = -log sum_i exp(l_ik + v_i),   v_i = -log sum_k exp(l_ik + u_k)

After a step every prototype has some row where ``l + u + v`` is at least -log N. So in the next one it gets at least
1 / (N K) of all rows: no sum is ever empty, whatever the logits are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard, logsumexp_over_ranks
from sslkernels.ops.dtypes import wide
from sslkernels.ops.prototypes.schema import PROTOTYPES, columns, products

KEPT = 1 << 30  # bytes of products that stay from step to step, on a CPU; more are formed anew in each


def spread_bias(
    rows: Tensor, weight: Tensor, scale: Tensor, iterations: int, counts: Tensor | None, shard: Shard,
    backend: str | None,
) -> Tensor:  # fmt: skip
    """Return u (K,) after so many iterations, over the rows of all ranks; ``counts`` says how often a row counts."""
    chosen = PROTOTYPES.choose(rows.device, rows.dtype, backend)
    bias = table = None
    if chosen == "cpu" and iterations > 1 and len(rows) * len(weight) * wide(rows.dtype).itemsize <= KEPT:
        table = products(rows, weight, chosen)
    for _ in range(iterations):
        lse = logsumexp_over_ranks(columns(rows, weight, scale, counts, bias, table, chosen), shard)
        bias = -lse.masked_fill(lse == -torch.inf, 0)  # no row counts at all
    assert bias is not None
    return bias
