# SPDX-License-Identifier: Apache-2.0
"""A loss of columns and its gradient on Triton, in few launches. docs/design/correlation.md counts them.

    moments      of spans of rows
    columns      joins them to means, scales and diagonals, and sums the terms of the loss that columns have alone
    standardise  stores the columns a and b, rounded to the dtype of the products
    products     K = a a^T and b b^T, or C: by cuBLAS if columns have 16 bits, else by the kernels of this family
    energies     of the products, which are rounded for the next ones
    products     K a, or a off(C)
    slopes       the value, and the factors of the gradient's terms
    gradients    dz

Nothing here waits for the device, and every size follows from shapes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.correlation import triton_loss_kernels as kernels
from sslkernels.ops.correlation.schema import Energy, Formula, Scaling
from sslkernels.ops.correlation.triton_kernels import feature_energies_kernel
from sslkernels.ops.correlation.triton_steps import (
    TYPES,
    Terms,
    View,
    multiply,
    new_parts,
    product,
    spans_of,
    write_moments,
)
from sslkernels.ops.launch import power_of_two, rows_of
from sslkernels.ops.triton_launch import Area, Tile, cdiv, doubles, empty, floats, processors

COLUMNS = 128  # of a program that joins moments
STANDARDISE = Tile(rows=64, columns=32, warps=8)
STANDARDISE_PROGRAMS = 4  # per multiprocessor, where rows are split
ENERGIES = Tile(rows=64, columns=64, warps=4)
SLOPES = Tile(rows=64, columns=32, warps=16)
SUMS = 1024  # numbers that the program of the value adds at once
GRADIENTS = Area(numbers=1024, warps=4)
# In float16, columns that are not standardised are this much longer than 1. So columns that are 2^-22 as long as the
# longest keep all their digits.
LIFT = 2.0**14
# The largest entry that a float16 matrix may have. It ends at 65504.
LARGEST = 15  # as an exponent of 2


class Job(NamedTuple):
    """Hold what every step of a loss needs to know."""

    views: tuple[Tensor, ...]  # (N, D) each
    scaling: Scaling
    energy: Energy
    formula: Formula
    needs: tuple[bool, bool]

    @property
    def cross(self) -> bool:
        return self.energy.kind == "cross"

    @property
    def samples(self) -> bool:
        return self.energy.kind != "none" and self.energy.side == "samples"

    @property
    def halves(self) -> bool:
        """Say if products have 16-bit operands."""
        return self.energy.dtype.itemsize == 2

    @property
    def split(self) -> bool:
        """Say if K is split into two 16-bit matrices for the second product, which takes the columns twice."""
        return self.halves and self.samples and self.scaling.eps is None and any(self.needs)

    @property
    def second(self) -> Tensor | None:
        return self.views[1] if len(self.views) == 2 else None

    @property
    def strides(self) -> tuple[int, int]:
        return self.views[0].stride(0), self.views[-1].stride(0)

    def how(self) -> dict[str, Any]:
        """Name what kernels are compiled for."""
        return {
            "CROSS": self.cross,
            "SCALED": self.scaling.eps is not None,
            "UNBIASED": int(self.scaling.unbiased),
            "OUTSIDE": self.scaling.outside,
            "HINGE": self.formula.hinge != 0,
        }

    def units(self, blocks: int) -> dict[str, Any]:
        return {
            "SCALED": self.scaling.eps is not None,
            "LIFT": LIFT if self.energy.dtype == torch.float16 else 1.0,
            "BLOCKS": power_of_two(blocks),
        }

    def shrink(self) -> float:
        """Return the power of two by which an entry of K or C is multiplied, so that its dtype holds it.

        A standardised column has a length of sqrt(N) at most, others of 2 * LIFT. So no entry of C is larger than the
        square of that, and no entry of K is larger than D such squares. Rounding may add a little.
        """
        if self.energy.dtype != torch.float16:
            return 1.0
        n, d = self.views[0].shape
        most = 2.0 * (4 * LIFT**2 if self.scaling.eps is None else n) * (d if self.samples else 1)
        return 2.0 ** (LARGEST - math.frexp(most)[1])


class Numbers(NamedTuple):
    """Hold the numbers of each column, and those of blocks of `COLUMNS`."""

    mean: Tensor  # (V, 2, D)
    squares: Tensor  # (V, D)
    scale: Tensor  # (V, D)
    diagonal: Tensor  # (1 or V, D): of C
    largest: Tensor  # (V, blocks): squares
    terms: Tensor  # (blocks,): of the loss

    @property
    def blocks(self) -> int:
        return self.terms.shape[0]


class Sums(NamedTuple):
    """Hold the sums of squares of K or C, and the matrix as the second product reads it."""

    tiles: Tensor  # (1 or V, tiles)
    matrix: Tensor  # (V, N, N), (V, N, 2 N) if split, or (1 or V, D, D)
    diagonal: Tensor | None  # (V, N): of K, if ``matrix`` has none
    rows: Tensor | None  # (1 or V, parts, D): sums along rows of C
    columns: Tensor | None  # (1, parts, D), along its columns


def whole_loss(
    z0: Tensor, z1: Tensor | None, scaling: Scaling, energy: Energy, formula: Formula, need0: bool, need1: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute what the op `loss` does, for rows that are there. Crossed views must be standardised."""
    views = tuple(rows_of(z) for z in (z0, z1) if z is not None)
    job = Job(views, scaling, energy, formula, (need0, need1 and z1 is not None))
    gradients = [floats(z0, *z0.shape) if need else floats(z0, 0) for need in job.needs]
    value = floats(z0)
    numbers = _columns(job)
    columns = taken = sums = None
    if energy.kind != "none":
        columns, taken = _standardise(job, numbers)
        sums = _energies(job, _first_products(job, columns))
        for view, dz in enumerate(gradients):
            if dz.numel():
                _second_product(job, columns, sums, view, dz)
        del columns
    factors = _slopes(job, numbers, sums, taken, value, gradients)
    if factors is not None:
        _gradients(job, numbers, sums, factors, gradients)
    return value, gradients[0], gradients[1]


def _columns(job: Job) -> Numbers:
    z0, views, (scaling, formula) = job.views[0], len(job.views), (job.scaling, job.formula)
    n, d = z0.shape
    spans, blocks = spans_of(z0), cdiv(d, COLUMNS)
    parts = new_parts(z0, views, spans.parts)
    write_moments(z0, job.second, parts, spans, True, whole=False)
    numbers = Numbers(
        floats(z0, views, 2, d), doubles(z0, views, d), floats(z0, views, d),
        doubles(z0, 1 if job.cross else views, d), doubles(z0, views, blocks), doubles(z0, blocks),
    )  # fmt: skip
    kernels.columns_kernel[(blocks,)](
        z0, job.second, *parts, *numbers, n, d, *spans,
        scaling.eps or 0.0, formula.gap / (n * d), formula.agreement, formula.hinge / d, formula.hinge_eps,
        **job.how(), BLOCK=COLUMNS, num_warps=4,
    )  # fmt: skip
    return numbers


def _standardise(job: Job, numbers: Numbers) -> tuple[Tensor, Tensor | None]:
    """Return the columns (V, 1 or 2, N, D), and on the side of samples the diagonal of C that rounded columns have."""
    z0, views = job.views[0], len(job.views)
    n, d = z0.shape
    columns = empty(z0, (views, 2 if job.split else 1, n, d), job.energy.dtype)
    taken = doubles(z0, *numbers.diagonal.shape) if job.samples else None
    row_blocks, column_blocks = cdiv(n, STANDARDISE.rows), cdiv(d, STANDARDISE.columns)
    parts = 1  # N < D gives the device enough blocks of columns; a sum over rows then needs one program
    if not job.samples:
        parts = max(1, min(row_blocks, processors(z0.device) * STANDARDISE_PROGRAMS // column_blocks))
    span = cdiv(row_blocks, parts) * STANDARDISE.rows
    kernels.standardise_kernel[(cdiv(n, span) * column_blocks,)](
        z0, job.second, numbers.mean, numbers.scale, numbers.largest, columns, taken, n, d, *job.strides, span,
        column_blocks, numbers.blocks, CROSS=job.cross, SPLIT=job.split, **job.units(numbers.blocks),
        BLOCK_N=STANDARDISE.rows, BLOCK_D=STANDARDISE.columns, num_warps=STANDARDISE.warps,
    )  # fmt: skip
    return columns, taken


def _first_products(job: Job, columns: Tensor) -> Tensor:
    """Return K of each view (V, N, N), or C (1 or V, D, D), in float32."""
    columns = columns.select(1, 0)
    views, n, d = columns.shape
    if job.samples:
        out = floats(columns, views, n, n)
        left, right = columns, columns.transpose(1, 2)
    else:
        out = floats(columns, 1 if job.cross else views, d, d)
        left, right = columns.narrow(0, 0, len(out)).transpose(1, 2), columns.narrow(0, views - len(out), len(out))
    if job.halves:
        return _multiplied(left, right, out)
    first, second = _stored(columns, 0), _stored(columns, -len(out) if not job.samples else 0)
    steps = (n * d, n * d)
    multiply(
        first, second, out, d if job.samples else n, job.samples, job.samples or not job.cross, columns.dtype, steps
    )
    return out


def _energies(job: Job, matrix: Tensor) -> Sums:
    views, size, _ = matrix.shape
    row_blocks, column_blocks = cdiv(size, ENERGIES.rows), cdiv(size, ENERGIES.columns)
    tiles = row_blocks * column_blocks
    sums = doubles(matrix, 1 if job.cross else views, tiles)
    width = 2 * size if job.split else size
    rounded = empty(matrix, (views, size, width), job.energy.dtype) if job.halves and any(job.needs) else None
    blocks = {"BLOCK_N": ENERGIES.rows, "BLOCK_M": ENERGIES.columns, "num_warps": ENERGIES.warps}
    if job.samples:
        diagonal = None if rounded is None else floats(matrix, views, size)
        kernels.samples_kernel[(tiles,)](
            matrix, rounded, diagonal, sums, size, job.shrink(), column_blocks, tiles, CROSS=job.cross, VIEWS=views,
            SPLIT=job.split, **blocks,
        )  # fmt: skip
        return Sums(sums, matrix if rounded is None else rounded, diagonal, None, None)
    rows = doubles(matrix, views, column_blocks, size)
    columns = doubles(matrix, views, row_blocks, size) if job.cross else None
    feature_energies_kernel[(tiles, views)](
        matrix, matrix, rows, columns, sums, rounded, size, job.shrink(), row_blocks, column_blocks, **blocks
    )
    return Sums(sums, matrix if rounded is None else rounded, None, rows, columns)


def _second_product(job: Job, columns: Tensor, sums: Sums, view: int, out: Tensor) -> None:
    """Write da of a view, times `Job.shrink`: K a with the K of the other view if crossed, or a off(C)."""
    if job.samples:
        source, index = view, 1 - view if job.cross else view
    else:
        source, index = (1 - view, 0) if job.cross else (view, view)
    matrix = sums.matrix.select(0, index)
    if not job.halves:
        a = _stored(columns.select(1, 0), source)
        terms = Terms(a, None, None, None, None, None)
        transposed = job.cross and view == 0
        product(a, matrix, None, terms, out, None, job.samples, transposed, 0, columns.dtype)
    elif job.samples:
        _multiplied(matrix, columns.select(0, source).flatten(0, 1), out)
    else:
        _multiplied(columns.select(0, source).select(0, 0), matrix.t() if job.cross and view == 0 else matrix, out)


def _slopes(
    job: Job, numbers: Numbers, sums: Sums | None, taken: Tensor | None, value: Tensor, gradients: list[Tensor]
) -> Tensor | None:
    """Write the value; return the factors (4, V, D) of the gradient's terms if somebody needs a gradient."""
    z0, views, (scaling, formula) = job.views[0], len(job.views), (job.scaling, job.formula)
    n, d = z0.shape
    factors = floats(z0, 4, views, d) if any(job.needs) else None
    count = n - 1 if scaling.eps is None else n
    g_off = formula.off / count**2 / d**formula.power
    tiles = rows = columns = diagonal = None
    parts = 0
    if sums is not None:
        tiles, rows, columns, diagonal = sums.tiles, sums.rows, sums.columns, sums.diagonal
        if rows is not None:
            parts = rows.shape[1]
            columns = rows.select(0, -1) if columns is None else columns
    kernels.slopes_kernel[(1 if factors is None else 1 + cdiv(d, SLOPES.columns),)](
        z0, job.second, gradients[0], gradients[1], numbers.mean, numbers.squares, numbers.scale, numbers.diagonal,
        taken, numbers.largest, numbers.terms, tiles, rows, columns, diagonal, value, factors,
        n, d, *job.strides, 0 if tiles is None else tiles.shape[1], numbers.blocks, parts, 1 / job.shrink(),
        scaling.eps or 0.0, g_off, formula.agreement, formula.hinge / d, formula.hinge_eps,
        (2 if job.cross else 4) * g_off,
        **job.how(), NEED0=job.needs[0], NEED1=job.needs[1], DTYPE=TYPES[job.energy.dtype],
        LIFT=job.units(numbers.blocks)["LIFT"], BLOCKS=power_of_two(numbers.blocks), BLOCK=SUMS, BLOCK_N=SLOPES.rows,
        BLOCK_D=SLOPES.columns, num_warps=SLOPES.warps,
    )  # fmt: skip
    return factors


def _gradients(job: Job, numbers: Numbers, sums: Sums | None, factors: Tensor, gradients: list[Tensor]) -> None:
    """Turn da, which each gradient holds, into dz."""
    z0 = job.views[0]
    n, d = z0.shape
    block_n, block_d = GRADIENTS.sides(d)
    kernels.gradients_kernel[(cdiv(n, block_n) * cdiv(d, block_d),)](
        z0, job.second, *gradients, numbers.mean, numbers.scale, numbers.largest,
        None if sums is None else sums.diagonal, factors, n, d, *job.strides, numbers.blocks, 1 / job.shrink(),
        2 * job.formula.gap / (n * d),
        ENERGY=sums is not None, SAMPLES=job.samples, CROSS=job.cross, **job.units(numbers.blocks),
        PULL=job.formula.gap != 0 and len(job.views) == 2, NEED0=job.needs[0], NEED1=job.needs[1],
        DTYPE=TYPES[job.energy.dtype], BLOCK_N=block_n, BLOCK_D=block_d, num_warps=GRADIENTS.warps,
    )  # fmt: skip


def _stored(columns: Tensor, view: int) -> View:
    return View(columns.select(0, view), None, None)


def _multiplied(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """Multiply 16-bit matrices, one pair or several, and sum in float32."""
    multiply = torch.bmm if out.dim() == 3 else torch.mm
    if out.is_cuda:
        return multiply(left, right, out_dtype=torch.float32, out=out)
    return multiply(left.float(), right.float(), out=out)
