# SPDX-License-Identifier: Apache-2.0
"""Choose the rows of each class that speak for the rest of it, greedily, without the matrix of similarities."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import check_device, check_number, check_rows, check_tensor, shape_of
from sslkernels.ops.rows import unit_rows

# Rows whose similarities to each other are held at once.
CANDIDATES = 1024
# Picks after which all gains are computed anew from the sum of what was picked.
PICKS = 512


@torch.no_grad()
def sas_subset(z: Tensor, classes: Tensor | None, share: float, *, redundancy: float = 1.0) -> Tensor:
    """Choose a share of each class whose rows are near to all rows of it (SAS: Joshi and Mirzasoleiman, ICML 2023).

    Rows join the subset S of their class one after another, always the one with the largest

        ``gain(i) = <x_i, sum_j x_j> - c * <x_i, sum_(s in S) x_s>``,   x the unit rows, j over the class.

    With c = 1 that is the row nearest to the sum of the rows that are left, which is what the authors' code does.
    With c = 2 each step adds the most to the sum of similarities between S and the rest of the class.

    Args:
        z: rows ``(N, D)``, features of an encoder or raw numbers; float32, float64, bfloat16 or float16. They are
            scaled to unit length.
        classes: int64 ``(N,)``, the latent class of each row: labels, or clusters of `sslkernels.functional.kmeans`;
            None for one class.
        share: of each class, above 0 and up to 1; at least one row of each is chosen.
        redundancy: c, how much nearness to chosen rows counts against a row; at least 0.

    Returns:
        int64, the chosen rows in ascending order. Of equal gains the lower row is chosen.

    Raises:
        ValueError, TypeError: unlike shapes, negative classes, numbers that are not finite.

    The result is that of trying every row at every step, for similarities of either sign. Gains of all rows follow from
    one product with the sum of the picks: similarities are computed among the `CANDIDATES` rows of the largest gains
    alone, and picks are made among these as long as no other row's bound is above the best of them.

    Cost: ``O(n*D)`` for each pick of a class of n rows at worst, and mostly for some hundred picks at once; a copy of
    the class and ``CANDIDATES^2`` numbers.

    >>> import torch
    >>> from sslkernels.evaluation import sas_subset
    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    >>> sas_subset(rows, torch.tensor([0, 0, 0, 1, 1, 1]), 1 / 3)
    tensor([1, 3])
    """
    function = "sas_subset"
    z = check_rows(function, "z", z).detach()
    if not len(z):
        raise ValueError(f"{function}: z has no row; pass at least one.")
    if not z.isfinite().all():
        raise ValueError(f"{function}: z holds numbers that are not finite; leave those rows out.")
    share = check_number(function, "share", share, above=0, most=1)
    redundancy = check_number(function, "redundancy", redundancy, least=0)
    if classes is None:
        return _greedy(z, _count(len(z), share), redundancy).sort().values
    classes = check_tensor(function, "classes", classes, "(N,), int64, the class of each row")
    if classes.dtype != torch.int64:
        raise TypeError(f"{function}: classes has dtype {classes.dtype}; pass int64 classes.")
    if classes.shape != z.shape[:1]:
        raise ValueError(
            f"{function}: classes has shape {shape_of(classes)} and z {shape_of(z)}; every row needs one class."
        )
    check_device(function, "classes", classes, "z", z)
    if classes.min() < 0:
        raise ValueError(f"{function}: classes holds {int(classes.min())}; classes are numbered from 0.")
    chosen = []
    for each in classes.unique():
        members = (classes == each).nonzero()[:, 0]
        chosen.append(members[_greedy(z[members], _count(len(members), share), redundancy)])
    return torch.cat(chosen).sort().values


def _count(rows: int, share: float) -> int:
    return max(1, round(share * rows))


def _greedy(z: Tensor, count: int, redundancy: float) -> Tensor:
    """Choose ``count`` rows of one class, in the order of their picks."""
    x = unit_rows(z if z.dtype in (torch.float32, torch.float64) else z.float())
    if count == len(x):
        return torch.arange(count, device=x.device)
    total = x.sum(0, dtype=torch.float64)
    # Every row lies `along` this direction, and `aside` of it.
    middle = total / total.norm().clamp_min(torch.finfo(torch.float64).tiny)
    along = x @ middle.to(x.dtype)
    aside = (1 - along.square()).clamp_min(0).sqrt()
    left = total.clone()  # <x_i, left> is the gain of row i
    open_rows = torch.ones(len(x), dtype=torch.bool, device=x.device)
    chosen: list[int] = []
    while len(chosen) < count:
        gains = (x @ left.to(x.dtype)).masked_fill(~open_rows, -torch.inf)
        picks = _block(x, gains, along, aside, min(PICKS, count - len(chosen)), redundancy)
        chosen += picks
        open_rows[picks] = False
        left -= redundancy * x[picks].sum(0, dtype=torch.float64)
    return torch.tensor(chosen, device=x.device)


def _block(x: Tensor, gains: Tensor, along: Tensor, aside: Tensor, most: int, redundancy: float) -> list[int]:
    """Pick among the rows of the largest gains until a row outside may be better; one pick at least.

    Where the picks sum to a vector with ``length`` along the middle and the rest at right angles to it, the similarity
    of row i to it is ``along_i * length - aside_i * rest`` at least, which bounds the gain of a row outside.
    """
    inside = gains.topk(min(CANDIDATES, len(x))).indices.sort().values
    rows, here = x[inside], gains[inside].double()
    similarity = (rows @ rows.T).double()
    outside = gains.clone()
    outside[inside] = -torch.inf
    kept = (outside > -torch.inf).nonzero()[:, 0]
    outside, beyond, across = outside[kept].double(), along[kept].double(), aside[kept].double()
    own = along[inside].double()
    near = torch.zeros_like(here)  # of each candidate, its similarity to the sum of the picks
    length = square = 0.0
    picks: list[int] = []
    while len(picks) < most:
        best = int((here - redundancy * near).argmax())
        if picks and len(kept):
            rest = max(0.0, square - length * length) ** 0.5
            if float((outside - redundancy * (beyond * length - across * rest)).max()) >= float(
                here[best] - redundancy * near[best]
            ):
                break
        picks.append(int(inside[best]))
        square += 2 * float(near[best]) + 1
        length += float(own[best])
        near += similarity[best]
        here[best] = -torch.inf
    return picks
