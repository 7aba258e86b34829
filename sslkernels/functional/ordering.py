# SPDX-License-Identifier: Apache-2.0
"""Order groups of similarities by a sorting network whose swaps are soft, and so have a gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sslkernels.arguments import REDUCTIONS, check_choice, check_number, check_rows, check_size, shape_of
from sslkernels.ops.dtypes import wide


def group_ordering(similarities: Tensor, positives: int, *, steepness: float = 1.0, reduction: str = "mean") -> Tensor:
    """Place all positives of an anchor behind all of its negatives (GroCo, Shvetsova et al. 2023).

    An odd-even network sorts each row; its swaps are soft (Petersen et al. 2021): neighbours a, b become
    ``f*a + (1-f)*b`` and ``(1-f)*a + f*b`` with ``f = 1/2 + atan(steepness * (b - a)) / pi``. So each value i ends in
    each place with some probability. ``loss = -mean_i log P(value i ends in a place of its group)``; the last places
    are those of the positives.

    Args:
        similarities: ``(N, K)``, finite numbers; the last columns are those of positives, the others of negatives. Both
            groups are put in ascending order first.
        positives: number of positives, from 1 to ``K - 1``.
        steepness: how far apart values must lie to be surely in order, a positive number.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``.

    Returns:
        0-dim float32 (float64 for float64 similarities), or ``(N,)``. Also of bfloat16 and float16 all is computed in
        float32.

    The paper takes the mean of two binary cross-entropies, of being among positives and among negatives. The two
    probabilities add up to 1, so that both cross-entropies are this loss.

    Cost: ``K`` passes over ``K/2`` swaps forward, and as many to follow the places back to the values: ``O(N*K^2)``
    operations and memory, in plain PyTorch, since K is about a dozen. No matrix of permutations is made.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.group_ordering(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 1, reduction="none")
    tensor([0.2877, 1.3863])
    """
    check_rows("group_ordering", "similarities", similarities, "(N, K), similarities of each anchor")
    if similarities.shape[0] == 0 or similarities.shape[1] < 2:
        raise ValueError(
            f"group_ordering: similarities has shape {shape_of(similarities)}; pass at least one anchor, with two or "
            "more columns."
        )
    places = similarities.shape[1]
    positives = check_size("group_ordering", "positives", positives, most=places - 1)
    steepness = check_number("group_ordering", "steepness", steepness, above=0)
    check_choice("group_ordering", "reduction", reduction, REDUCTIONS)
    negatives = places - positives
    groups = similarities.to(wide(similarities.dtype)).split([negatives, positives], 1)
    values = torch.cat([group.sort(1).values for group in groups], 1)

    layers = []
    for layer in range(places):
        start = layer % 2
        a, b = _neighbours(values, start)
        difference = steepness * (b - a)
        one = torch.ones_like(difference)
        # 1/2 + atan(d) / pi and its complement, neither of which rounds to 0 where values lie far apart.
        stay, swap = torch.atan2(one, -difference) / math.pi, torch.atan2(one, difference) / math.pi
        layers.append((start, stay, swap))
        values = _put(values, start, stay * a + swap * b, swap * a + stay * b)

    # For each place the probability to be of the negatives', and of the positives': sure behind the last layer.
    last = torch.arange(places, device=values.device) >= negatives
    chance = torch.stack([~last, last], 1).to(values.dtype).expand(len(values), -1, -1)
    for start, stay, swap in reversed(layers):
        low, high = _neighbours(chance, start)
        stay, swap = stay[..., None], swap[..., None]
        chance = _put(chance, start, stay * low + swap * high, swap * low + stay * high)
    own = torch.cat([chance[:, :negatives, 0], chance[:, negatives:, 1]], 1)
    losses = -own.clamp_min(torch.finfo(own.dtype).tiny).log().mean(1)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _neighbours(x: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Take the first and the second of each two neighbours along dim 1, beginning with place ``start``."""
    end = start + 2 * ((x.shape[1] - start) // 2)
    return x[:, start:end:2], x[:, start + 1 : end : 2]


def _put(x: Tensor, start: int, first: Tensor, second: Tensor) -> Tensor:
    """Put neighbours in the place of those that `_neighbours` takes."""
    pairs = torch.stack([first, second], 2).flatten(1, 2)
    return torch.cat([x[:, :start], pairs, x[:, start + pairs.shape[1] :]], 1)
