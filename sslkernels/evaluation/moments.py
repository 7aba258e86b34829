# SPDX-License-Identifier: Apache-2.0
"""Sum rows and their products in float64, block by block: what the measures of a spectrum start from.

A matrix ``(D, D)`` of products stands for ``(N, D)`` rows, so that no copy of them in float64 is stored. Squares keep
half the digits: a singular value below 1e-8 of the largest is lost. That is below the rounding of float32 rows, but not
of float64 rows, whose values are taken from the rows themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from sslkernels.arguments import ROWS, check_rows, shape_of

NARROW = (torch.float32, torch.bfloat16, torch.float16)
# Numbers of one block: 16 MiB of float64.
BLOCK = 1 << 21
# Columns whose products with themselves and all columns after them are one call.
COLUMNS = 128
# Numbers from here to there have squares, and sums of these, within float64.
SMALL, LARGE = 2.0**-400, 2.0**400
# A singular value below this share of the largest is rounding: of narrow rows, and of their squares in float64.
LEAST_SHARE = torch.finfo(torch.float32).eps


def features(function: str, name: str, value: object, least: int = 1, expected: str = ROWS, dims: int = 2) -> Tensor:
    """Check floating-point rows, at least so many, and return them without their graph."""
    rows = check_rows(function, name, value, expected, dims=dims).detach()
    if len(rows) < least:
        wanted = "one row" if least == 1 else f"{least} {'rows' if dims == 2 else 'samples'}"
        raise ValueError(f"{function}: {name} has shape {shape_of(rows)}; pass at least {wanted}.")
    return rows


def in_range(rows: Tensor) -> tuple[Tensor, float]:
    """Multiply rows by a power of two where squares of their largest number leave float64; give that power too.

    It rounds nothing. Squares of float32 and narrower rows are in range; these are given back as they are, with 1.
    """
    if rows.dtype in NARROW:
        return rows, 1.0
    peak = float(torch.linalg.vector_norm(rows, torch.inf))
    if not 0 < peak < math.inf or SMALL <= peak <= LARGE:
        return rows, 1.0
    power = 2.0 ** min(-math.frexp(peak)[1], 1000)  # 2^1024 is no number
    return rows * power, power


def blocks(rows: Tensor) -> Iterator[Tensor]:
    """Cut rows into blocks of float64."""
    for part in rows.split(max(1, BLOCK // rows.shape[1])):
        yield part.double()


def column_means(rows: Tensor) -> Tensor:
    """Average each column ``(D,)`` in float64; a column of equal numbers has exactly that number as its mean."""
    # Sums of what is left above the first row have no rounding of a large common mean, which is a direction of its own.
    first = rows[0].double()
    total = torch.zeros_like(first)
    for part in blocks(rows):
        total += (part - first).sum(0)
    return first + total / len(rows)


def gram(rows: Tensor, mean: Tensor | None = None) -> Tensor:
    """Sum the products of columns, ``Z^T Z (D, D)`` in float64, after the mean was subtracted where one is given.

    They are symmetric: about half of them, ``N*D^2`` operations, are computed.
    """
    total = rows.new_zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
    for part in blocks(rows):
        part = part if mean is None else part - mean
        for start in range(0, part.shape[1], COLUMNS):
            total[start : start + COLUMNS, start:].addmm_(part[:, start : start + COLUMNS].T, part[:, start:])
    return total.triu_() + total.triu(1).T


def sum_of_squares(rows: Tensor, mean: Tensor) -> Tensor:
    """Sum the squares of each column ``(D,)`` about the mean."""
    total = torch.zeros_like(mean)
    for part in blocks(rows):
        total += (part - mean).square().sum(0)
    return total


def eigenvalues(symmetric: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix, largest first and none below 0; NaN if it is not finite."""
    if not symmetric.isfinite().all():
        return symmetric.new_full((len(symmetric),), torch.nan)
    return torch.linalg.eigvalsh(symmetric).flip(0).clamp_min(0)


def singular_values(rows: Tensor, mean: Tensor | None = None) -> Tensor:
    """The ``min(N, D)`` singular values of rows in float64, largest first; all are NaN if a number is not finite.

    Those of float32 and narrower rows come from the ``D x D`` products, ``N*D^2`` operations, where ``N >= D``. They
    are as exact as the rows where above 1e-7 of the largest, and 0 below. Otherwise the rows themselves are decomposed:
    about ``4*N*D*min(N, D)`` operations, and a copy of the rows in float64.
    """
    if rows.dtype in NARROW and len(rows) >= rows.shape[1]:
        values = eigenvalues(gram(rows, mean)).sqrt()
        return values.masked_fill(values <= LEAST_SHARE * values[0], 0)
    whole = rows.double() if mean is None else rows.double() - mean
    if not whole.isfinite().all():
        return whole.new_full((min(whole.shape),), torch.nan)
    return torch.linalg.svdvals(whole)


def shares(values: Tensor) -> Tensor:
    """Divide values by their sum; zeros stay zeros."""
    total = values.sum()
    return values if total == 0 else values / total


def entropy_rank(values: Tensor, epsilon: float = 0.0) -> float:
    """Count the directions that matter: ``exp(-sum p log p)``, p the shares of the values, plus ``epsilon`` each.

    Values that are all zero have rank 0.
    """
    total = float(values.sum())
    return total if total == 0 else float(torch.special.entr(values / total + epsilon).sum().exp())
