# SPDX-License-Identifier: Apache-2.0
"""Multiply rows with the few rows of a pool that an index names, without a buffer of those rows."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import INDEX_DTYPES, check_alike, check_rows, check_scalar, check_tensor, shape_of
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.repeats import distinct
from sslkernels.ops.sampled.autograd import GatherSimilarity
from sslkernels.ops.sampled.schema import SAMPLED

__all__ = ["SAMPLED", "check_places", "gather_similarity"]


def gather_similarity(
    x: Tensor, y: Tensor, index: Tensor, scale: float | Tensor = 1.0, *, backend: str | None = None
) -> Tensor:
    """Multiply each row with rows of a pool that were sampled for it, such as negatives or a few positives.

    ``s_ik = scale * <x_i, y[index_ik]>``, as ``einsum("nd,nkd->nk", x, y[index])`` without the rows ``(N, K, D)``.

    Args:
        x: rows ``(N, D)``; float32, float64, bfloat16 or float16. Any row stride.
        y: the pool ``(M, D)`` of the same dtype. It must not change before the backward.
        index: int64 or int32 ``(N, K)``, rows of y; -1 stands for none. Rows may repeat, and their gradients add up.
            Where all rows of x share one ``(K,)``, ``x @ y[index].T`` is the faster way.
        scale: any real number, or a one-element tensor, which then receives its gradient.
        backend: see `logsumexp_similarity`.

    Returns:
        float32 ``(N, K)`` (float64 for float64 rows). An index of -1 gives ``-inf``, and whatever gradient arrives
        there is ignored, NaN included.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend.
        IndexError: an index outside ``[-1, M)``, checked on the CPU. On a GPU, and in compiled graphs, such an index
            counts as a row of NaN without a gradient of its own, so that the host need not wait.

    Cost: ``2*N*K*D`` operations, and as many for each of the gradients of x and y. ``N*K`` rows are read, from
    whichever cache holds them. Memory: the result; the gradient of y sorts ``N*K`` pairs of 8 bytes (on a GPU about 30)
    by row. No atomics: the same inputs give the same bits, on a CPU with any number of threads. A second derivative
    raises.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.gather_similarity(torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0, 1], [1, -1]]))
    tensor([[1., 3.],
            [4., -inf]])
    """
    check_rows("gather_similarity", "x", x)
    check_alike("gather_similarity", "y", check_rows("gather_similarity", "y", y), "x", x, rows=False)
    index = check_places("gather_similarity", "index", index, "x", x, y.shape[0])
    scale = check_scalar("gather_similarity", "scale", scale)
    x, y = promoted(x, y)
    dtype = compute_dtype(x)
    x, y = x.to(dtype), y.to(dtype)
    inputs = distinct(x, y, index, scale_tensor(scale, x))
    return GatherSimilarity.apply(*inputs, SAMPLED.choose(x.device, x.dtype, backend))


def check_places(function: str, name: str, value: object, rows_name: str, rows: Tensor, count: int) -> Tensor:
    """Check an index ``(N, K)``, with a row for each of ``rows``, of whole numbers from -1 to ``count`` - 1."""
    index = check_tensor(function, name, value, "(N, K), int64 or int32")
    if index.dtype not in INDEX_DTYPES:
        raise TypeError(f"{function}: {name} has dtype {index.dtype}; accepted are int64 and int32.")
    if index.dim() != 2 or index.shape[0] != rows.shape[0]:
        raise ValueError(
            f"{function}: {name} has shape {shape_of(index)} and {rows_name} {shape_of(rows)}; "
            f"expected (N, K) with one row of indices per row of {rows_name}."
        )
    if index.device != rows.device:
        raise ValueError(
            f"{function}: {name} is on {index.device} and {rows_name} on {rows.device}; move both to one device."
        )
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and index.numel():
        low, high = (int(bound) for bound in index.aminmax())
        if low < -1 or high >= count:
            raise IndexError(
                f"{function}: {name} holds {low if low < -1 else high}; rows run from 0 to {count - 1}, "
                "and -1 stands for none."
            )
    return index
