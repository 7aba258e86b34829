# SPDX-License-Identifier: Apache-2.0
"""The correlation family on Triton: allocate, split sums that would leave multiprocessors idle, and launch.

Nothing here waits for the device: kernels read numbers through pointers, and every size follows from shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.correlation import composed
from sslkernels.ops.correlation import triton_kernels as kernels
from sslkernels.ops.correlation.schema import Coefficients, Columns, Energy, Formula, Products, Scaling
from sslkernels.ops.correlation.triton_loss import whole_loss
from sslkernels.ops.correlation.triton_steps import (
    Terms,
    View,
    blocks_of,
    multiply,
    new_parts,
    product,
    spans_of,
    write_moments,
)
from sslkernels.ops.launch import rows_of
from sslkernels.ops.triton_launch import Area, Tile, cdiv, doubles, floats

# A matrix that is multiplied in float16 is first scaled so that its largest entry is this, and small entries keep their
# digits. Sums over them are float32, and do not overflow.
HEADROOM = 2.0**14
# Tiles of the kernels that are bound by memory.
SAMPLE_ENERGIES = Area(numbers=4096, warps=4)
FEATURE_ENERGIES = Tile(rows=64, columns=64, warps=4)
FINISH = Area(numbers=1024, warps=4)


def loss(
    z0: Tensor, z1: Tensor | None, scaling: Scaling, energy: Energy, formula: Formula, need0: bool, need1: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if z0.numel() and (energy.kind != "cross" or scaling.eps is not None):
        return whole_loss(z0, z1, scaling, energy, formula, need0, need1)
    if energy.side == "samples":  # ops one by one take the diagonal from columns that are not rounded
        energy = energy._replace(dtype=torch.float32)
    alone = composed.Where(Shard.alone, True, "triton")
    return composed.loss(z0, z1, scaling, energy, formula, need0, need1, alone)


def moments(z0: Tensor, z1: Tensor | None, centre: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z0, z1 = rows_of(z0), None if z1 is None else rows_of(z1)
    (n, d), views = z0.shape, 1 if z1 is None else 2
    means, squares = floats(z0, views, 2, d), doubles(z0, views, d)
    products, gaps = (None, None) if z1 is None else (doubles(z0, d), doubles(z0, d))
    whole = (means, squares, products, gaps)
    if n == 0 or d == 0:  # A rank may hold no row.
        for x in whole:
            if x is not None:
                x.zero_()
    else:
        spans = spans_of(z0)
        if spans.parts == 1:
            write_moments(z0, z1, whole, spans, centre, whole=True)
        else:
            split = new_parts(z0, views, spans.parts)
            write_moments(z0, z1, split, spans, centre, whole=False)
            kernels.merge_kernel[(cdiv(d, 128),)](
                z0, z1, *split, *whole, n, d, *spans, CENTRE=centre, BLOCK=128, num_warps=4
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
    for view in range(out.shape[0]):
        right = views[1] if cross and not samples else views[view]
        left = views[view].rows(first, count) if samples else views[view]
        symmetric = count == n if samples else not cross
        multiply(left, right, out[view : view + 1], depth, samples, symmetric, dtype)
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
            kernels.sample_energies_kernel[(blocks, views)](
                matrix, matrix[1:] if cross else matrix, parts, height * width, blocks, BLOCK=block, num_warps=warps
            )
        return parts.sum(1, keepdim=True, dtype=torch.float64)
    block_n, block_m, warps = FEATURE_ENERGIES
    row_blocks, column_blocks = cdiv(width, block_n), cdiv(width, block_m)
    row_parts = doubles(matrix, views, column_blocks, width)
    column_parts = doubles(matrix, views, row_blocks, width) if cross else None
    if width:
        kernels.feature_energies_kernel[(row_blocks * column_blocks, views)](
            matrix, other, row_parts, column_parts, None, None, width, 1.0, row_blocks, column_blocks,
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
        if matrix is None:
            _finish(None, terms, dz)
            continue
        if side == "samples":
            source, index = views[view], 1 - view if cross else view
        else:
            source, index = (views[1 - view] if cross else views[view]).rows(first, count), 0 if cross else view
        operands = (source, matrix[index], None if unit is None else unit[index])
        transposed = cross and view == 0
        if through is None or terms.own is None:
            product(*operands, terms, dz, None, side == "samples", transposed, first, compute)
        else:
            # dz needs the sum of da a over all rows, which no program has before da is complete. da is therefore
            # stored in float32, 4*N*D bytes beside 2*N^2*D operations; it shares the memory of a float32 dz.
            da = dz if dz.dtype == torch.float32 else floats(dz, *dz.shape)
            sums = floats(dz, cdiv(count, blocks_of(compute)[1].n), dz.shape[1])
            product(*operands, terms, da, sums, side == "samples", transposed, first, compute)
            _finish(da, terms._replace(own=terms.own + through[view] * sums.sum(0)), dz)
    return gradients[0], gradients[1]


def _finish(da: Tensor | None, terms: Terms, dz: Tensor) -> None:
    n, d = dz.shape
    block_n, block_d = FINISH.sides(d)
    kernels.finish_kernel[(cdiv(n, block_n) * cdiv(d, block_d),)](
        da, *terms.arguments(), dz, n, d, *terms.strides(), BLOCK_N=block_n, BLOCK_D=block_d, num_warps=FINISH.warps
    )


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
