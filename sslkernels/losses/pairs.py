# SPDX-License-Identifier: Apache-2.0
"""Say which pairs of rows and references are compared: those that classes make, or those that a miner lists.

Columns are places among the references. The positives of a row are few, and stand in a table ``(N, P)``; -1 is none.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import came, check_tensor, shape_of
from sslkernels.ops.dtypes import scale_tensor, widened
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.sampled import gather_similarity
from sslkernels.ops.similarity import logsumexp_similarity

# Two lists of positive pairs and two of negative ones, or one of triplets.
Indices = tuple[Tensor, ...]


class Pairs(NamedTuple):
    """Hold the places of pairs; without a table of negatives these are all references of other classes."""

    positive: Tensor  # (N, P)
    negative: Tensor | None  # (N, Q)
    row_labels: Tensor | None  # (N,), without a table of negatives
    col_labels: Tensor | None  # (M,)
    own: Tensor | None  # (N,) the column that is the row itself, which is no pair
    counts: tuple[int, int]  # of positive and negative pairs

    @property
    def too_few(self) -> bool:
        """Tell if there are pairs of one kind alone, or one pair of each, which the original does not count either."""
        return min(self.counts) == 0 or max(self.counts) <= 1

    @staticmethod
    def by_class(row_labels: Tensor, col_labels: Tensor, own: Tensor | None) -> Pairs:
        n, m = len(row_labels), len(col_labels)
        sorted_labels, order = col_labels.sort(stable=True)
        begin = torch.searchsorted(sorted_labels, row_labels)
        end = torch.searchsorted(sorted_labels, row_labels, right=True)
        widest = int((end - begin).max()) if n else 0
        places = begin[:, None] + torch.arange(widest, device=row_labels.device)
        columns = order[places.clamp_max(m - 1)]
        alike = int((end - begin).sum())
        outside = places >= end[:, None]
        positives = alike
        if own is not None:
            outside = outside | (columns == own[:, None])
            positives -= n
        positive = columns.masked_fill(outside, -1)
        return Pairs(positive, None, row_labels, col_labels, own, (positives, n * m - alike))

    @staticmethod
    def listed(indices: Indices, n: int) -> Pairs:
        a1, p, a2, q = as_pairs(indices)
        return Pairs(_table(a1, p, n), _table(a2, q, n), None, None, None, (len(a1), len(a2)))


class Products(NamedTuple):
    """Hold unit rows and references, and the inverse temperature."""

    x: Tensor  # (N, D)
    y: Tensor  # (M, D)
    scale: Tensor  # ()

    @staticmethod
    def of(embeddings: Tensor, references: Tensor | None, temperature: float | Tensor) -> Products:
        x = unit_rows(widened(embeddings))
        scale = scale_tensor(temperature, x).reciprocal()
        return Products(x, x if references is None else unit_rows(widened(references)), scale)

    def logits(self, columns: Tensor) -> Tensor:
        """Return the logits ``(N, K)`` of the columns in a table, -inf where there is none."""
        return gather_similarity(self.x, self.y, columns, self.scale)

    def negatives(self, pairs: Pairs) -> Tensor:
        """Return the log-sum-exp of each row's negatives ``(N,)``, -inf without any."""
        if pairs.negative is not None:
            return logsumexp_of(self.logits(pairs.negative))
        y = None if self.y is self.x else self.y
        col_labels = None if y is None else pairs.col_labels
        return logsumexp_similarity(self.x, y, self.scale, row_labels=pairs.row_labels, col_labels=col_labels)

    def everything(self, pairs: Pairs) -> Tensor:
        """Return the log-sum-exp of each row's pairs of both kinds ``(N,)``."""
        if pairs.negative is not None:
            return logsumexp_of(torch.cat([self.logits(pairs.positive), self.logits(pairs.negative)], 1))
        return logsumexp_similarity(self.x, None if self.y is self.x else self.y, self.scale, exclude=pairs.own)


def logsumexp_of(logits: Tensor) -> Tensor:
    """Compute the log-sum-exp of rows; one of nothing but -inf has a gradient of zero, where torch's is NaN."""
    nothing = (logits == -torch.inf).all(1)
    return logits.masked_fill(nothing[:, None], 0).logsumexp(1).masked_fill(nothing, -torch.inf)


def without_repeats(indices: Indices, m: int) -> Indices:
    """Leave each pair in once; raise if one is both positive and negative."""
    a1, p, a2, q = as_pairs(indices)
    positive, negative = (a1 * m + p).unique(), (a2 * m + q).unique()
    if torch.isin(positive, negative).any():
        raise ValueError(
            "SupConLoss: indices_tuple has a pair that is both positive and negative; leave it out of one of the lists."
        )
    return positive // m, positive % m, negative // m, negative % m


def as_pairs(indices: Indices) -> Indices:
    """Turn triplets into positive and negative pairs, which repeat as the triplets do."""
    return indices if len(indices) == 4 else (*indices[:2], indices[0], indices[2])


def all_pairs(row_labels: Tensor, col_labels: Tensor) -> Indices:
    alike = row_labels[:, None] == col_labels
    return *alike.nonzero(as_tuple=True), *(~alike).nonzero(as_tuple=True)


def without_own(indices: Indices, own: Tensor) -> Indices:
    """Leave out positive pairs, or triplets, of a row with itself."""
    kept = own[indices[0]] != indices[1]
    return *(each[kept] for each in indices[: 2 if len(indices) == 4 else 3]), *indices[2 if len(indices) == 4 else 3 :]


def check_indices(function: str, name: str, value: object, n: int, m: int, device: torch.device) -> Indices:
    """Check lists of pairs ``(a1, p, a2, n)``, or of triplets ``(a, p, n)``, as miners give them."""
    if not isinstance(value, (tuple, list)) or len(value) not in (3, 4):
        raise TypeError(f"{function}: {name} is {came(value)}; pass (a1, p, a2, n) or (a, p, n), or None.")
    indices = []
    anchors = (0, 2) if len(value) == 4 else (0,)
    for place, each in enumerate(value):
        part = f"{name}[{place}]"
        found = check_tensor(function, part, each, "(P,), int64").to(device)
        if found.dtype != torch.int64 or found.dim() != 1:
            raise TypeError(f"{function}: {part} is {came(found)}; pass int64 indices of shape (P,).")
        rows = n if place in anchors else m
        if len(found) and not (0 <= int(found.min()) and int(found.max()) < rows):
            raise IndexError(
                f"{function}: {part} goes from {int(found.min())} to {int(found.max())}; there are {rows} rows."
            )
        indices.append(found)
    for first, second in ((0, 1), (len(value) - 2, len(value) - 1)):
        if indices[first].shape != indices[second].shape:
            raise ValueError(
                f"{function}: {name}[{first}] has shape {shape_of(indices[first])} and {name}[{second}] "
                f"{shape_of(indices[second])}; both need the same."
            )
    return tuple(indices)


def _table(anchors: Tensor, columns: Tensor, n: int) -> Tensor:
    """Write the columns of each anchor into a row of a table, -1 behind them."""
    anchors, order = anchors.sort(stable=True)
    counts = torch.bincount(anchors, minlength=n)
    places = torch.arange(len(anchors), device=anchors.device) - (counts.cumsum(0) - counts)[anchors]
    table = anchors.new_full((n, int(counts.max()) if len(anchors) else 0), -1)
    table[anchors, places] = columns[order]
    return table
