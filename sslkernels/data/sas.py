# SPDX-License-Identifier: Apache-2.0
"""Choose the rows of each class that speak for the rest of it, greedily, without the matrix of similarities."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import check_device, check_number, check_rows, check_tensor, shape_of
from sslkernels.ops.rows import unit_rows

# Rows whose similarities to each other are held at once, at most and at least.
CANDIDATES, LEAST_CANDIDATES = 1024, 64
# Picks after which all gains are computed anew from the sum of what was picked.
PICKS = 512
# Picks that are compared with the rows outside at once.
TOGETHER = 16


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
    left = x.sum(0, dtype=torch.float64)  # <x_i, left> is the gain of row i
    # Every row lies `along` the middle of the class, and `aside` of it.
    along = x @ (left / left.norm().clamp_min(torch.finfo(torch.float64).tiny)).to(x.dtype)
    bounds = _Bounds(along.double().cpu().numpy(), redundancy)
    open_rows = torch.ones(len(x), dtype=torch.bool, device=x.device)
    chosen: list[int] = []
    candidates = CANDIDATES
    while len(chosen) < count:
        gains = (x @ left.to(x.dtype)).masked_fill(~open_rows, -torch.inf)
        inside = gains.topk(min(candidates, len(x) - len(chosen))).indices.sort().values
        similarity = (x[inside] @ x[inside].T).double().cpu().numpy()
        found = _picks(similarity, gains.double().cpu().numpy(), inside.cpu().numpy(), bounds, count - len(chosen))
        picked = inside[torch.from_numpy(found).to(inside.device)]
        chosen += picked.tolist()
        open_rows[picked] = False
        left -= redundancy * x[picked].sum(0, dtype=torch.float64)
        # Where rows have nothing in common a block is short, and many candidates are wasted on it.
        if len(found) < candidates // 64:
            candidates = max(LEAST_CANDIDATES, candidates // 2)
        elif len(found) >= candidates // 16:
            candidates = min(CANDIDATES, candidates * 2)
    return torch.tensor(chosen, device=x.device)


def _picks(similarity: np.ndarray, gains: np.ndarray, inside: np.ndarray, bounds: _Bounds, left: int) -> np.ndarray:
    """Pick candidates, as many as no row outside can be better than: one at least. They are places in ``inside``."""
    most = min(PICKS, left, len(inside))
    here, near = gains[inside], np.zeros(len(inside))
    picks, best = np.zeros(most, np.int64), np.zeros(most)
    # Before each pick the picks so far sum to a vector with `length` along the middle, and the square of its norm.
    length, square = np.zeros(most), np.zeros(most)
    for step in range(most):
        place = int(here.argmax())
        picks[step], best[step] = place, here[place]
        if step + 1 < most:
            length[step + 1] = length[step] + bounds.along[inside[place]]
            square[step + 1] = square[step] + 2 * near[place] + similarity[place, place]
        near += similarity[place]
        here -= bounds.redundancy * similarity[place]
        here[place] = -np.inf
    outside = gains.copy()
    outside[inside] = -np.inf
    rows = np.flatnonzero(outside > -np.inf)
    return picks[: bounds.safe(outside[rows], rows, best, length, square)]


class _Bounds:
    """The most that rows can gain after some picks, without their similarities to these.

    Where the picks sum to a vector with ``length`` along the middle of the class and ``across`` at right angles to it,
    the similarity of row i to the sum is ``along_i * length - aside_i * across`` at least.
    """

    def __init__(self, along: np.ndarray, redundancy: float) -> None:
        self.along, self.redundancy = along, redundancy
        self.aside = np.sqrt(np.maximum(0, 1 - along**2))

    def safe(
        self, gains: np.ndarray, rows: np.ndarray, best: np.ndarray, length: np.ndarray, square: np.ndarray
    ) -> int:
        """Count the picks before the first that a row outside may beat; the first pick is the best of all rows."""
        if not len(rows):
            return len(best)
        across = np.sqrt(np.maximum(0, square - length**2))
        along, aside = self.along[rows], self.aside[rows]

        def beaten(some: slice) -> bool:
            near = np.minimum(along * length[some].min(), along * length[some].max()) - aside * across[some].max()
            return bool((gains - self.redundancy * near).max() >= best[some].min())

        for start in range(1, len(best), TOGETHER):
            if beaten(slice(start, start + TOGETHER)):
                last = min(start + TOGETHER, len(best))
                return next((step for step in range(start, last) if beaten(slice(step, step + 1))), last)
        return len(best)
