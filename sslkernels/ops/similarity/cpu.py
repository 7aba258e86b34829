# SPDX-License-Identifier: Apache-2.0
"""Run the similarity family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

from typing import Any

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
    x, keys, _, given = _given(pairs)
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    dtype = wide(x.dtype)
    rows = torch.empty(n, dtype=dtype, device="cpu")
    column_sums = torch.empty(m if columns else 0, dtype=dtype, device="cpu")
    attended = torch.empty((n, d) if attend else (0,), dtype=dtype, device="cpu")
    _C.similarity_forward(
        given, rows.data_ptr(), column_sums.data_ptr() if columns else 0, attended.data_ptr() if attend else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return rows, column_sums, attended


def backward(pairs: Pairs, sums: Sums, need_x: bool, need_y: bool, need_bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, keys, _, given = _given(pairs)
    need_x, need_bias = need_x or pairs.y is None, need_bias and pairs.y is not None
    asked, need_y = need_y, (need_y or need_bias) and pairs.y is not None
    moved_x, moved_y, of_bias = (
        torch.empty(shape if need else (0,), dtype=wide(x.dtype), device="cpu")
        for shape, need in ((x.shape, need_x), (keys.shape, need_y), (keys.shape[:1], need_bias))
    )
    if x.shape[0] == 0 or keys.shape[0] == 0:  # empty tensors have address 0, which means "not wanted" to the kernel
        moved_x, moved_y, of_bias = moved_x.zero_(), moved_y.zero_(), of_bias.zero_()
    elif need_x or need_y:
        _C.similarity_backward(
            given, [pointer(of) for of in sums], moved_x.data_ptr(), moved_y.data_ptr(), of_bias.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
    # Weights of a column are summed by the thread that sums what moves its row, even where nobody asks for the latter.
    return moved_x, moved_y if asked else moved_y.new_empty(0), of_bias


def _given(pairs: Pairs) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...], tuple[Any, ...]]:
    """Return the rows, the tensors that must live while the kernel runs, and the pairs as the kernel takes them."""
    x = rows_of(pairs.x)
    keys = x if pairs.y is None else alike(x, pairs.y)
    exclude, bias, rows = contiguous(pairs.exclude), contiguous(pairs.bias), contiguous(pairs.row_labels)
    columns = rows if pairs.col_labels is None else contiguous(pairs.col_labels)
    diagonals = (pairs.start, pairs.first, pairs.step, pairs.views)
    given = (
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], keys.data_ptr(), keys.stride(0), keys.shape[0],
        pairs.y is None, x.shape[1], float(pairs.scale), pointer(exclude), 0 if exclude is None else exclude.shape[1],
        diagonals, pointer(bias), pointer(rows), pointer(columns), pairs.alike,
    )  # fmt: skip
    return x, keys, (exclude, bias, rows, columns), given


def weigh(
    positives: Positives, rows: Tensor, cols: Tensor | None, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = rows_of(positives.x), alike(positives.x, positives.y)
    rows, cols, directions = rows.contiguous(), contiguous(cols), 1 if cols is None else 2
    weights, pull = rows.new_empty((directions, len(rows))), torch.empty_like(rows)
    value, of_scale = _C.similarity_weigh(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), y.stride(0), x.shape[1],
        float(positives.scale), rows.data_ptr(), pointer(cols), share * directions, weights.data_ptr(),
        weights[-1].data_ptr(), pull.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return rows.new_tensor(value), weights, pull, rows.new_tensor(of_scale)


def finish(
    moved: Moved, pull: Tensor | None, need_x: bool, need_y: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x, y = moved.x, moved.y
    dx, along_x = _finished(x, moved.moved_x, moved.x_norms, y, pull, moved.scale, need_x)
    dy, along_y = dx.new_empty(0), None
    if y is not None:
        dy, along_y = _finished(y, moved.moved_y, moved.y_norms, x, pull, moved.scale, need_y)
    sides = [along for along in (along_x, along_y) if along is not None]
    return dx, dy, dx.new_tensor(sum(sides) / max(len(sides), 1)) if need_scale else dx.new_empty(0)


def _finished(
    x: Tensor, moved: Tensor | None, norms: Tensor | None, partners: Tensor | None, pull: Tensor | None, scale: Tensor,
    need: bool,
) -> tuple[Tensor, float | None]:  # fmt: skip
    out = torch.empty(x.shape if need else (0,), dtype=scale.dtype, device="cpu")
    if moved is None and not need:
        return out, None
    absent = moved is None
    x, norms = rows_of(x), contiguous(norms)
    moved = torch.zeros(x.shape, dtype=scale.dtype, device="cpu") if moved is None else moved.contiguous()
    partners = x if partners is None else alike(x, partners)
    along = _C.similarity_finish(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], x.shape[1], moved.data_ptr(), partners.data_ptr(),
        partners.stride(0), pointer(pull), pointer(norms), float(scale),
        pointer(out) if need else 0, torch.get_num_threads(),
    )  # fmt: skip
    return out, None if absent else along


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


def kept_bytes(against: str, n: int, m: int, d: int, dtype: torch.dtype) -> int:
    """Return how many bytes the exponentials of n anchors and m keys take, if a call keeps them for the gradient."""
    return _C.similarity_kept_bytes(AGAINST[against], CODES[dtype], n, m, d, torch.get_num_threads())
