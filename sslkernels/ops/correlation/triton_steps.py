# SPDX-License-Identifier: Apache-2.0
"""The launches that whole losses and the other ops of the correlation family share: moments and products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from sslkernels.ops.correlation import triton_kernels as kernels
from sslkernels.ops.launch import dot_precision
from sslkernels.ops.triton_launch import Tile, cdiv, doubles, floats, processors

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


# Blocks of the matrix, and of the backward, by how products run. "16" stands for 16-bit operands, the other two for the
# ways to multiply float32. Triton 3.9 compiles them without spills for sm_80, sm_90 and sm_100, and the slow tests hold
# them to that. They were not measured on a GPU.
TABLE: dict[str, tuple[Blocks, Blocks]] = {
    "16": (Blocks(128, 128, 32, 8, 3), Blocks(128, 64, 32, 8, 3)),
    "tf32": (Blocks(64, 64, 32, 8, 3), Blocks(64, 64, 32, 8, 3)),
    "ieee": (Blocks(64, 64, 32, 8, 2), Blocks(64, 64, 16, 8, 2)),
}
MOMENTS = Tile(rows=64, columns=32, warps=8)
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


TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


class Spans(NamedTuple):
    """Say how rows are split for their moments: into ``parts`` of ``rows`` rows, the last of them perhaps shorter."""

    rows: int
    parts: int


def spans_of(z: Tensor) -> Spans:
    """Split the rows of z for the moments."""
    row_blocks, column_blocks = cdiv(z.shape[0], MOMENTS.rows), cdiv(z.shape[1], MOMENTS.columns)
    blocks = cdiv(row_blocks, max(1, min(row_blocks, processors(z.device) * MOMENTS_PROGRAMS // column_blocks)))
    return Spans(blocks * MOMENTS.rows, cdiv(row_blocks, blocks))


def new_parts(z: Tensor, views: int, parts: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Make room for means and squares of each part and view, and for products and gaps if there are two views."""
    d = z.shape[1]
    both = views == 2
    return (
        doubles(z, parts, views, d),
        doubles(z, parts, views, d),
        doubles(z, parts, d) if both else None,
        doubles(z, parts, d) if both else None,
    )


def write_moments(
    z0: Tensor, z1: Tensor | None, to: Sequence[Tensor | None], spans: Spans, centre: bool, whole: bool
) -> None:
    """Write the moments of each span. If ``whole``, there is one, and its means are float32 with their remainders."""
    n, d = z0.shape
    column_blocks = cdiv(d, MOMENTS.columns)
    kernels.moments_kernel[(spans.parts * column_blocks,)](
        z0, z1, *to, n, d, z0.stride(0), 0 if z1 is None else z1.stride(0), spans.rows, column_blocks,
        CENTRE=centre, WHOLE=whole, BLOCK_N=MOMENTS.rows, BLOCK_D=MOMENTS.columns, num_warps=MOMENTS.warps,
    )  # fmt: skip


def multiply(
    left: View,
    right: View,
    out: Tensor,
    depth: int,
    samples: bool,
    symmetric: bool,
    dtype: torch.dtype,
    steps: tuple[int, int] = (0, 0),
) -> None:
    """Write products of two views to ``out`` (V, height, width), sums over ``depth`` features (``samples``) or rows.

    The sums are split where there are fewer tiles than multiprocessors. If there are several products, the operands of
    the next lie ``steps`` numbers behind.
    """
    blocks = blocks_of(dtype)[0]
    views, height, width = out.shape
    row_blocks, column_blocks = cdiv(height, blocks.n), cdiv(width, blocks.m)
    tiles = row_blocks * (row_blocks + 1) // 2 if symmetric else row_blocks * column_blocks
    parts = max(1, min(processors(out.device) // (tiles * views), depth // SHORTEST_PART))
    into = out if parts == 1 else floats(out, views, parts, height, width)
    kernels.matrix_kernel[(tiles * parts, views)](
        left.z, right.z, left.mean, left.scale, right.mean, right.scale, into,
        height, width, depth, left.z.stride(0), right.z.stride(0), *steps, parts,
        SAMPLES=samples, SYMMETRIC=symmetric, BLOCK_N=blocks.n, BLOCK_M=blocks.m, **_options(blocks, dtype),
    )  # fmt: skip
    if parts > 1:
        torch.sum(into, 1, out=out)


def product(
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
    """Write a matrix times the columns of ``source``, and the ``terms`` beside it; see `backward_kernel`."""
    blocks = blocks_of(dtype)[1]
    n, d = out.shape
    kernels.backward_kernel[(cdiv(n, blocks.n) * cdiv(d, blocks.m),)](
        *source, matrix, unit, *terms.arguments(), out, sums,
        n, d, matrix.shape[1], first, source.z.stride(0), *terms.strides(),
        SAMPLES=samples, TRANSPOSED=transposed and not samples, BLOCK_N=blocks.n, BLOCK_D=blocks.m,
        **_options(blocks, dtype),
    )  # fmt: skip


def blocks_of(dtype: torch.dtype) -> tuple[Blocks, Blocks]:
    """Choose the blocks of the matrix and those of the backward, for operands of ``dtype``."""
    return TABLE[dot_precision() if dtype == torch.float32 else "16"]


def _options(blocks: Blocks, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "DTYPE": TYPES[dtype],
        "PRECISION": dot_precision(),
        "BLOCK_K": blocks.k,
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }
