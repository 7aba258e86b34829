# SPDX-License-Identifier: Apache-2.0
"""The last steps of both ways through the pairs: join the parts that programs left, and finish gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.similarity.schema import Sums
from sslkernels.ops.triton_launch import cdiv, floats, row_tile

# Float16 weights, at most 1, are multiplied by this: those of 65536 equal pairs, 2^-16, would be subnormal otherwise.
HEADROOM = 2.0**14


class Terms(NamedTuple):
    """The terms of G, each as log-sum-exps and their gradients, or None where no gradient came."""

    rows: tuple[Tensor, Tensor] | None
    columns: tuple[Tensor, Tensor] | None
    unit: Tensor | None  # gradients were divided by it


def merge(peaks: Tensor, totals: Tensor, into: Tensor | None = None) -> Tensor:
    """lse (N,) of running sums (parts, N), in ``into`` or a new tensor."""
    parts, n = peaks.shape
    lse = floats(peaks, n) if into is None else into
    kernels.merge_kernel[(cdiv(n, 128),)](peaks, totals, lse, n, parts, BLOCK=128, num_warps=4)
    return lse


def summed(moved: Tensor, unit: Tensor | None) -> Tensor:
    """The sum over parts of O (parts, N, D), times ``unit``."""
    parts, n, d = moved.shape
    if parts == 1 and unit is None:
        return moved[0]
    out, size = floats(moved, n, d), row_tile(d)
    kernels.total_kernel[(cdiv(n, size["BLOCK_N"]),)](moved, unit, out, n, d, parts, **size)
    return out


def headroom(x: Tensor) -> float:
    return HEADROOM if x.dtype == torch.float16 else 1.0


def terms_of(sums: Sums, dtype: torch.dtype) -> Terms:
    """The terms of G that have a gradient, with headroom for float16 weights."""
    terms = Terms(_term(sums.rows, sums.rows_grad), _term(sums.cols, sums.cols_grad), None)
    return _with_headroom(terms) if dtype == torch.float16 and (terms.rows or terms.columns) else terms


def _term(lse: Tensor | None, grad: Tensor | None) -> tuple[Tensor, Tensor] | None:
    return None if lse is None or grad is None else (lse.contiguous(), grad.contiguous())


def _with_headroom(terms: Terms) -> Terms:
    """Divide gradients to at most 2^14, so that float16 weights keep their digits."""
    # One row's infinity or NaN must not become that of all.
    grads = [term[1].nan_to_num(0, 0, 0) for term in terms[:2] if term is not None]
    largest = torch.stack([torch.linalg.vector_norm(grad, torch.inf) for grad in grads]).amax()
    unit = largest.clamp_min(2.0**-100) / HEADROOM
    rows, columns = (None if term is None else (term[0], term[1] / unit) for term in terms[:2])
    return Terms(rows, columns, unit)
