# SPDX-License-Identifier: Apache-2.0
"""Run the tokens family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, contiguous, pointer, rows_of
from sslkernels.ops.tokens.bounds import check_bounds

_NORMS = {"none": 0, "mae": 1, "layer": 2}


def gather(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
) -> Tensor:
    x, index = rows_of(x), index.contiguous()
    (sets, batch, kept), length = index.shape, x.shape[1] - prefix
    fill, pos = contiguous(fill), contiguous(pos)
    out = torch.empty((sets * batch, prefix + kept, x.shape[2]), dtype=dtype, device="cpu")
    if not _C.tokens_gather(
        *_at(x, prefix), *_index(index), length, pointer(fill), pointer(pos), by_place, CODES[dtype], out.data_ptr(),
        torch.get_num_threads(),
    ):  # fmt: skip
        check_bounds(index, length if fill is None else None)
    return out


def collect(
    x: Tensor, index: Tensor, length: int, fill: Tensor | None, prefix: int, strict: bool, dtype: torch.dtype
) -> Tensor:
    x, index, fill = rows_of(x), index.contiguous(), contiguous(fill)
    out = torch.empty((index.shape[1], prefix + length, x.shape[2]), dtype=dtype, device="cpu")
    if not _C.tokens_collect(
        *_at(x, prefix), *_index(index), length, pointer(fill), strict, CODES[dtype], out.data_ptr(),
        torch.get_num_threads(),
    ):  # fmt: skip
        check_bounds(index, length)
    return out


def sums(x: Tensor, index: Tensor, length: int) -> Tensor:
    x, index = rows_of(x), index.contiguous()
    out = torch.empty((length, x.shape[2]), dtype=wide(x.dtype), device="cpu")
    dtype, data, sample_stride, row_stride, _, d = _at(x, 0)
    _C.tokens_sums(
        dtype, data, sample_stride, row_stride, d, *_index(index), length, out.data_ptr(), torch.get_num_threads()
    )
    return out


def ranks(keys: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    keys = keys.to(torch.float32).contiguous()
    batch, length = keys.shape
    ids_keep = torch.empty((batch, keep), dtype=torch.int64, device="cpu")
    ids_restore, mask = (
        torch.empty((batch, length), dtype=torch.int64, device="cpu"),
        torch.empty((batch, length), device="cpu"),
    )
    _C.tokens_ranks(
        keys.data_ptr(), batch, length, keep, ids_keep.data_ptr(), ids_restore.data_ptr(), mask.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return ids_keep, ids_restore, mask


def patches(images: Tensor, index: Tensor, patch: int) -> Tensor:
    images, index = images.contiguous(), index.contiguous()
    (batch, kept), (_, channels, height, width) = index.shape, images.shape
    down, across = height // patch, width // patch
    out = torch.empty((batch, kept, channels * patch * patch), dtype=images.dtype, device="cpu")
    if not _C.tokens_patches(
        CODES[images.dtype], images.data_ptr(), channels, down, across, patch, *_index(index[None]), out.data_ptr(),
        torch.get_num_threads(),
    ):  # fmt: skip
        check_bounds(index, down * across)
    return out


def errors(pred: Tensor, target: Tensor, weights: Tensor, norm: str, beta: float) -> tuple[Tensor, Tensor]:
    pred, target, weights = pred.contiguous(), target.contiguous(), weights.contiguous()
    rows, d = pred.shape
    out, moments = (
        torch.empty(rows, dtype=weights.dtype, device="cpu"),
        torch.empty((rows, 2), dtype=weights.dtype, device="cpu"),
    )
    _C.tokens_errors(
        CODES[pred.dtype], CODES[target.dtype], pred.data_ptr(), target.data_ptr(), weights.data_ptr(), rows, d,
        _NORMS[norm], beta, out.data_ptr(), moments.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, moments


def errors_backward(pred: Tensor, target: Tensor, scales: Tensor, moments: Tensor, norm: str, beta: float) -> Tensor:
    pred, target, scales = pred.contiguous(), target.contiguous(), scales.contiguous()
    rows, d = pred.shape
    dpred = torch.empty((rows, d), dtype=pred.dtype, device="cpu")
    _C.tokens_errors_backward(
        CODES[pred.dtype], CODES[target.dtype], pred.data_ptr(), target.data_ptr(), scales.data_ptr(), rows, d,
        _NORMS[norm], beta, moments.data_ptr(), dpred.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return dpred


def _at(x: Tensor, prefix: int) -> tuple[int, int, int, int, int, int]:
    return CODES[x.dtype], x.data_ptr(), x.stride(0), x.stride(1), prefix, x.shape[2]


def _index(index: Tensor) -> tuple[int, bool, Any]:
    return index.data_ptr(), index.dtype == torch.int64, tuple(index.shape)
