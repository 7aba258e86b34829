# SPDX-License-Identifier: Apache-2.0
"""The correlation family on Triton: allocate, split sums that would leave multiprocessors idle, and launch.

Nothing here waits for the device: kernels read numbers through pointers, and every size follows from shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.correlation import composed
from sslkernels.ops.correlation import triton_kernels as kernels
from sslkernels.ops.correlation.schema import Coefficients, Columns, Energy, Formula, Products, Scaling
from sslkernels.ops.launch import dot_precision, rows_of
from sslkernels.ops.triton_launch import Area, Tile, cdiv, doubles, floats, processors

# A matrix that is multiplied in float16 is first scaled so that its largest entry is this, and small entries keep their
# digits. Sums over them are float32, and do not overflow.
HEADROOM = 2.0**14
# A split sum has at least this many terms in each part. Shorter parts cost more to write than the multiprocessors that
# they fill can save.
SHORTEST_PART = 256  # rows or features


@dataclass(frozen=True)
class Blocks:
    """The tile of a product, and how it is computed."""

    n: int  # rows
    m: int  # columns
    k: int  # terms of the sum per step
    warps: int
    stages: int  # of the pipeline


# How products run -> blocks of the matrix, and of the backward. "16" stands for 16-bit operands, the other two for the
# ways to multiply float32. Triton 3.9 compiles them without spills for sm_80, sm_90 and sm_100, and the slow tests hold
# them to that. They were not measured on a GPU.
TABLE: dict[str, tuple[Blocks, Blocks]] = {
    "16": (Blocks(128, 128, 32, 8, 3), Blocks(128, 64, 32, 8, 3)),
    "tf32": (Blocks(64, 64, 32, 8, 3), Blocks(64, 64, 32, 8, 3)),
    "ieee": (Blocks(64, 64, 32, 8, 2), Blocks(64, 64, 16, 8, 2)),
}
# Tiles of the kernels that are bound by memory.
MOMENTS = Tile(rows=64, columns=32, warps=8)
SAMPLE_ENERGIES = Area(numbers=4096, warps=4)
FEATURE_ENERGIES = Tile(rows=64, columns=64, warps=4)
FINISH = Area(numbers=1024, warps=4)
# The moments split rows among programs until a multiprocessor has this many.
MOMENTS_PROGRAMS = 4  # per multiprocessor


class View(NamedTuple):
    """The rows of a view, and the mean and scale that standardise their columns."""

    z: Tensor
    mean: Tensor | None
    scale: Tensor | None

    def rows(self, first: int, count: int) -> View:
        return self._replace(z=self.z[first : first + count])


class Terms(NamedTuple):
    """The terms of dz = outer da + own a + mixed b + pull (z - z'), but for da. What is None is left out.

    a and b are the standardised columns of ``view`` and of ``other``, z and z' their rows.
    """

    view: View
    other: View | None
    outer: Tensor | None
    own: Tensor | None
    mixed: Tensor | None
    pull: Tensor | None

    def arguments(self) -> tuple[Tensor | None, ...]:
        pairs = zip(self.view, (None, None, None) if self.other is None else self.other, strict=True)
        return *(x for pair in pairs for x in pair), self.outer, self.own, self.mixed, self.pull

    def strides(self) -> tuple[int, int]:
        return self.view.z.stride(0), 0 if self.other is None else self.other.z.stride(0)


_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def loss(
    z0: Tensor, z1: Tensor | None, scaling: Scaling, energy: Energy, formula: Formula, need0: bool, need1: bool
) -> tuple[Tensor, Tensor, Tensor]:
    alone = composed.Where(Shard.alone, True, "triton")
    return composed.loss(z0, z1, scaling, energy, formula, need0, need1, alone)


def moments(z0: Tensor, z1: Tensor | None, centre: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z0, z1 = rows_of(z0), None if z1 is None else rows_of(z1)
    (n, d), views = z0.shape, 1 if z1 is None else 2
    block_n, block_d, warps = MOMENTS
    means, squares = floats(z0, views, 2, d), doubles(z0, views, d)
    products, gaps = (None, None) if z1 is None else (doubles(z0, d), doubles(z0, d))
    if n == 0 or d == 0:  # A rank may hold no row.
        for x in (means, squares, products, gaps):
            if x is not None:
                x.zero_()
    else:
        row_blocks, column_blocks = cdiv(n, block_n), cdiv(d, block_d)
        span = cdiv(row_blocks, max(1, min(row_blocks, processors(z0.device) * MOMENTS_PROGRAMS // column_blocks)))
        parts, span = cdiv(row_blocks, span), span * block_n
        whole = (means, squares, products, gaps)
        split: tuple[Tensor | None, ...] = whole
        if parts > 1:  # Means of parts are float64, and have no remainder.
            shapes = (squares, squares, products, gaps)
            split = tuple(None if x is None else doubles(z0, parts, *x.shape) for x in shapes)
        with torch.cuda.device_of(z0):
            kernels.moments_kernel[(parts * column_blocks,)](
                z0, z1, *split, n, d, z0.stride(0), 0 if z1 is None else z1.stride(0), span, column_blocks,
                CENTRE=centre, WHOLE=parts == 1, BLOCK_N=block_n, BLOCK_D=block_d, num_warps=warps,
            )  # fmt: skip
            if parts > 1:
                kernels.merge_kernel[(cdiv(d, 128),)](
                    z0, z1, *split, *whole, n, d, span, parts, CENTRE=centre, BLOCK=128, num_warps=4
                )
    if products is None or gaps is None:
        return means, squares, doubles(z0, 0), doubles(z0).zero_()
    return means, squares, products, gaps.sum()


def matrix(columns: Columns, products: Products) -> Tensor:
    z0, (cross, side, dtype, first, count) = columns.z0, products
    views = _views(columns)
    n, d = z0.shape
    samples = side == "samples"
    height, width, depth = (count, n, d) if samples else (d, d, n)
    out = floats(z0, 1 if cross and not samples else len(views), height, width)
    if out.numel() == 0 or depth == 0:
        return out.zero_()
    with torch.cuda.device_of(z0):
        for view in range(out.shape[0]):
            right = views[1] if cross and not samples else views[view]
            left = views[view].rows(first, count) if samples else views[view]
            symmetric = count == n if samples else not cross
            _multiply(left, right, out[view], depth, samples, symmetric, dtype)
    return out


def energies(matrix: Tensor, other: Tensor, cross: bool, side: str) -> Tensor:
    matrix, other = matrix.contiguous(), other.contiguous()
    views, height, width = matrix.shape
    views = 1 if cross else views
    if side == "samples":
        block, warps = SAMPLE_ENERGIES
        blocks = cdiv(height * width, block)
        parts = floats(matrix, views, blocks)
        if blocks:
            with torch.cuda.device_of(matrix):
                kernels.sample_energies_kernel[(blocks, views)](
                    matrix, matrix[1:] if cross else matrix, parts, height * width, blocks, BLOCK=block, num_warps=warps
                )
        return parts.sum(1, keepdim=True, dtype=torch.float64)
    block_n, block_m, warps = FEATURE_ENERGIES
    row_blocks, column_blocks = cdiv(width, block_n), cdiv(width, block_m)
    row_parts = doubles(matrix, views, column_blocks, width)
    column_parts = doubles(matrix, views, row_blocks, width) if cross else None
    if width:
        with torch.cuda.device_of(matrix):
            kernels.feature_energies_kernel[(row_blocks * column_blocks, views)](
                matrix, other, row_parts, column_parts, width, row_blocks, column_blocks,
                BLOCK_N=block_n, BLOCK_M=block_m, num_warps=warps,
            )  # fmt: skip
    sums = row_parts.sum(1)
    return sums if column_parts is None else torch.cat([sums, column_parts.sum(1)])


def backward(
    columns: Columns,
    matrix: Tensor | None,
    products: Products,
    coefficients: Coefficients,
    need0: bool,
    need1: bool,
    gradient_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    (z0, z1, mean, _), (cross, side, compute, first, count) = columns, products
    outer, own, mixed, pull, through = coefficients
    views = _views(columns)
    if own is None or mean is None:
        own = mixed = pull = through = None
    if matrix is not None:
        matrix = matrix.contiguous()
    unit = _unit(matrix) if matrix is not None and matrix.numel() and compute == torch.float16 else None
    gradients = []
    for view, need in enumerate((need0, need1 and z1 is not None)):
        dz = z0.new_empty((count, z0.shape[1]) if need else 0, dtype=gradient_dtype)
        gradients.append(dz)
        if dz.numel() == 0:
            continue
        terms = Terms(
            views[view].rows(first, count),
            views[1 - view].rows(first, count) if z1 is not None and (mixed is not None or pull is not None) else None,
            None if outer is None else outer[view].contiguous(),
            None if own is None else own[view].contiguous(),
            None if mixed is None else mixed[view].contiguous(),
            None if z1 is None else pull,
        )
        with torch.cuda.device_of(z0):
            if matrix is None:
                _finish(None, terms, dz)
                continue
            if side == "samples":
                source, index = views[view], 1 - view if cross else view
            else:
                source, index = (views[1 - view] if cross else views[view]).rows(first, count), 0 if cross else view
            product = (source, matrix[index], None if unit is None else unit[index])
            transposed = cross and view == 0
            if through is None or terms.own is None:
                _product(*product, terms, dz, None, side == "samples", transposed, first, compute)
            else:
                # dz needs the sum of da a over all rows, which no program has before da is complete. da is therefore
                # stored in float32, 4*N*D bytes beside 2*N^2*D operations; it shares the memory of a float32 dz.
                da = dz if dz.dtype == torch.float32 else floats(dz, *dz.shape)
                sums = floats(dz, cdiv(count, _blocks(compute)[1].n), dz.shape[1])
                _product(*product, terms, da, sums, side == "samples", transposed, first, compute)
                _finish(da, terms._replace(own=terms.own + through[view] * sums.sum(0)), dz)
    return gradients[0], gradients[1]


# --- launches -------------------------------------------------------------------------------------------------------


def _multiply(
    left: View, right: View, out: Tensor, depth: int, samples: bool, symmetric: bool, dtype: torch.dtype
) -> None:
    """Write the product of two views to ``out``, a sum over ``depth`` features (``samples``) or rows.

    The sum is split where there are fewer tiles than multiprocessors.
    """
    blocks = _blocks(dtype)[0]
    height, width = out.shape
    row_blocks, column_blocks = cdiv(height, blocks.n), cdiv(width, blocks.m)
    tiles = row_blocks * (row_blocks + 1) // 2 if symmetric else row_blocks * column_blocks
    parts = max(1, min(processors(out.device) // tiles, depth // SHORTEST_PART))
    into = out[None] if parts == 1 else floats(out, parts, height, width)
    kernels.matrix_kernel[(tiles * parts,)](
        left.z, right.z, left.mean, left.scale, right.mean, right.scale, into,
        height, width, depth, left.z.stride(0), right.z.stride(0), parts,
        SAMPLES=samples, SYMMETRIC=symmetric, BLOCK_N=blocks.n, BLOCK_M=blocks.m, **_options(blocks, dtype),
    )  # fmt: skip
    if parts > 1:
        torch.sum(into, 0, out=out)


def _product(
    source: View,
    matrix: Tensor,
    unit: Tensor | None,
    terms: Terms,
    out: Tensor,
    sums: Tensor | None,
    samples: bool,
    transposed: bool,
    first: int,
    dtype: torch.dtype,
) -> None:
    blocks = _blocks(dtype)[1]
    n, d = out.shape
    kernels.backward_kernel[(cdiv(n, blocks.n) * cdiv(d, blocks.m),)](
        *source, matrix, unit, *terms.arguments(), out, sums,
        n, d, matrix.shape[1], first, source.z.stride(0), *terms.strides(),
        SAMPLES=samples, TRANSPOSED=transposed and not samples, BLOCK_N=blocks.n, BLOCK_D=blocks.m,
        **_options(blocks, dtype),
    )  # fmt: skip


def _finish(da: Tensor | None, terms: Terms, dz: Tensor) -> None:
    n, d = dz.shape
    block_n, block_d = FINISH.sides(d)
    kernels.finish_kernel[(cdiv(n, block_n) * cdiv(d, block_d),)](
        da, *terms.arguments(), dz, n, d, *terms.strides(), BLOCK_N=block_n, BLOCK_D=block_d, num_warps=FINISH.warps
    )


# --- what they share ------------------------------------------------------------------------------------------------


def _views(columns: Columns) -> list[View]:
    z0, z1, mean, scale = columns
    return [
        View(
            rows_of(z),
            None if mean is None else mean[view].contiguous(),
            None if scale is None else scale[view].contiguous(),
        )
        for view, z in enumerate((z0, z1))
        if z is not None
    ]


def _unit(matrix: Tensor) -> Tensor:
    """The divisor, per view, that brings the largest entry to 2^14. C is a sum over N rows, and may exceed float16."""
    return torch.linalg.vector_norm(matrix, torch.inf, dim=(1, 2)).clamp_min(2.0**-100) / HEADROOM


def _blocks(dtype: torch.dtype) -> tuple[Blocks, Blocks]:
    return TABLE[dot_precision() if dtype == torch.float32 else "16"]


def _options(blocks: Blocks, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "DTYPE": _TYPES[dtype],
        "PRECISION": dot_precision(),
        "BLOCK_K": blocks.k,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }
