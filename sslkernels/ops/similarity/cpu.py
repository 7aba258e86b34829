# SPDX-License-Identifier: Apache-2.0
"""Run the similarity family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.backends import WORKSPACE
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, alike, contiguous, pointer, rows_of
from sslkernels.ops.similarity.schema import Anchors, Moved, Needs, Pairs, Positives, Sums

# `Against` in csrc/cpu/similarity/kernels.h has the same numbers.
AGAINST = {"itself": 0, "both": 1, "rows": 2, "queue": 3}


def forward(pairs: Pairs, columns: bool, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, exclude = rows_of(pairs.x), contiguous(pairs.exclude)
    keys = x if pairs.y is None else alike(x, pairs.y)
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    dtype = wide(x.dtype)
    rows = torch.empty(n, dtype=dtype, device="cpu")
    column_sums = torch.empty(m if columns else 0, dtype=dtype, device="cpu")
    attended = torch.empty((n, d) if attend else (0,), dtype=dtype, device="cpu")
    _C.similarity_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), n, keys.data_ptr(), keys.stride(0), m, pairs.y is None, d,
        float(pairs.scale), pointer(exclude), 0 if exclude is None else exclude.shape[1],
        rows.data_ptr(), column_sums.data_ptr() if columns else 0, attended.data_ptr() if attend else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return rows, column_sums, attended


def backward(pairs: Pairs, sums: Sums, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor]:
    x, exclude = rows_of(pairs.x), contiguous(pairs.exclude)
    keys = x if pairs.y is None else alike(x, pairs.y)
    need_x, need_y = need_x or pairs.y is None, need_y and pairs.y is not None
    moved_x, moved_y = (
        torch.empty(of.shape if need else (0,), dtype=wide(x.dtype), device="cpu")
        for of, need in ((x, need_x), (keys, need_y))
    )
    if x.shape[0] == 0 or keys.shape[0] == 0:  # empty tensors have address 0, which means "not wanted" to the kernel
        return moved_x.zero_(), moved_y.zero_()
    if need_x or need_y:
        _C.similarity_backward(
            CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], keys.data_ptr(), keys.stride(0),
            keys.shape[0], pairs.y is None, x.shape[1], float(pairs.scale), pointer(exclude),
            0 if exclude is None else exclude.shape[1], pointer(sums.rows), pointer(sums.rows_grad), pointer(sums.cols),
            pointer(sums.cols_grad), moved_x.data_ptr(), moved_y.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return moved_x, moved_y


def weigh(
    positives: Positives, rows: Tensor, cols: Tensor | None, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, y = rows_of(positives.x), alike(positives.x, positives.y)
    row_weights, pull = torch.empty_like(rows), torch.empty_like(rows)
    col_weights = rows.new_empty(0) if cols is None else torch.empty_like(cols)
    value, of_scale = _C.similarity_weigh(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), y.stride(0), y.shape[0], x.shape[1],
        positives.shift, float(positives.scale), rows.data_ptr(), pointer(cols), share, row_weights.data_ptr(),
        col_weights.data_ptr(), pull.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return rows.new_tensor(value), row_weights, col_weights, pull, rows.new_tensor(of_scale)


def finish(rows: Moved, partners: Tensor | None, shift: int, pull: Tensor | None) -> tuple[Tensor, Tensor]:
    x, moved, norms = rows_of(rows.x), rows.moved.contiguous(), contiguous(rows.norms)
    partners = x if partners is None else alike(x, partners)
    out = torch.empty(moved.shape, dtype=moved.dtype, device="cpu")
    of_scale = _C.similarity_finish(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], x.shape[1], moved.data_ptr(), partners.data_ptr(),
        partners.stride(0), partners.shape[0], shift, pointer(pull), pointer(norms), float(rows.scale),
        out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, moved.new_tensor(of_scale)


def contrast(anchors: Anchors, mean: bool, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, y, negatives, scale, against, unit, frozen, compute = anchors
    x, y = rows_of(x), alike(x, y)
    negatives = None if negatives is None else rows_of(negatives)
    (n, d), dtype = x.shape, wide(x.dtype)
    share = 1.0 if not mean else 1 / (2 * n if against == "itself" else n)
    value = torch.empty((), dtype=dtype, device="cpu")
    gradients = [
        torch.empty(of.shape if need and of is not None else (0,), dtype=dtype, device="cpu")
        for of, need in zip((x, y, negatives, scale), needs, strict=True)
    ]
    queue, stride, m = (0, 0, 0) if negatives is None else (negatives.data_ptr(), negatives.stride(0), len(negatives))
    _C.similarity_contrast(
        AGAINST[against], CODES[x.dtype], CODES[compute], x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), n,
        queue, stride, m, d, float(scale), unit, frozen, share, WORKSPACE, value.data_ptr(),
        [gradient.data_ptr() for gradient in gradients], torch.get_num_threads(),
    )  # fmt: skip
    return value, *gradients  # type: ignore[return-value]


def kept_bytes(n: int, m: int, dtype: torch.dtype, itself: bool) -> int:
    """Return how many bytes the exponentials of all pairs take, or those of half of them for x with ``itself``."""
    return _C.similarity_kept_bytes(CODES[dtype], n, m, itself)
