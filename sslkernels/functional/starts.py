# SPDX-License-Identifier: Apache-2.0
"""Choose the rows at which k-means begins. Ranks choose among the rows of all of them, and choose the same.

Numbers are drawn on the device of the generator, and those of the group's first rank count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard, broadcast, highest, summed
from sslkernels.functional.lloyd import rows_at
from sslkernels.ops.dtypes import wide
from sslkernels.ops.neighbours import topk_similarity

# Whole numbers sum alike in any order. So many units are shared among the rows.
UNITS = 2**46
# Numbers from 0 to 1 are drawn as digits, whose products with all units fit 64 bits.
BITS, DIGITS = 16, 3


def random_rows(x: Tensor, k: int, generator: torch.Generator | None, shard: Shard) -> Tensor:
    """Draw k different rows, each as likely."""
    order = torch.randperm(shard.total(len(x)), generator=generator, device=device_of(generator))
    return rows_at(x, broadcast(order[:k].to(x.device), shard), shard)


def plus_plus(x: Tensor, k: int, generator: torch.Generator | None, shard: Shard, backend: str | None) -> Tensor:
    """Draw k rows one after another, each by its squared distance to the nearest of those before (k-means++)."""
    draws = torch.randint(2**BITS, (k, DIGITS), generator=generator, device=device_of(generator))
    draws = broadcast(draws.to(x.device), shard)
    rows = x.new_empty((k, x.shape[1]), dtype=wide(x.dtype))
    squares = x.new_full((len(x),), torch.inf, dtype=wide(x.dtype))
    weight = torch.ones_like(squares)
    for place in range(k):
        rows[place] = rows_at(x, _drawn(weight, draws[place], shard)[None], shard)[0]
        distance, _ = topk_similarity(x, rows[place : place + 1].to(x.dtype), metric="euclidean", backend=backend)
        weight = squares = torch.minimum(squares, distance[:, 0].square())
    return rows


def _drawn(weight: Tensor, draw: Tensor, shard: Shard) -> Tensor:
    """Draw a row of all ranks by its weight; each is as likely if all weights are zero."""
    largest = highest(torch.cat([weight, weight.new_zeros(1)]).amax(), shard)
    units = (weight / largest * (UNITS // shard.total(len(weight)))).long()
    passed = torch.where(largest > 0, units, 1).cumsum(0)
    mine = torch.cat([passed.new_zeros(1), passed])[-1]
    each = summed(torch.where(torch.arange(shard.ranks, device=weight.device) == shard.rank, mine, 0), shard)
    target = torch.zeros_like(mine)
    for digit in draw:  # the last one counts most
        target = (target + digit * each.sum()) >> BITS
    target = target - each[: shard.rank].sum()
    here = (target >= 0) & (target < mine)
    return summed(torch.where(here, shard.start + torch.searchsorted(passed, target, right=True), 0), shard)


def device_of(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
