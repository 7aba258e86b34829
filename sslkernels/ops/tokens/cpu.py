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
from sslkernels.ops.tokens.schema import Masked

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


def masked_error(masked: Masked, grad: Tensor | None, need: bool) -> tuple[Tensor, Tensor]:
    pred, target, weights, norm, beta = masked
    pred, target, weights = rows_of(pred), rows_of(target), weights.contiguous()
    samples, length, d = pred.shape
    value = torch.empty((), dtype=weights.dtype, device="cpu")
    dpred = torch.empty(pred.shape if need else (0,), dtype=pred.dtype, device="cpu")
    _C.tokens_masked_error(
        CODES[pred.dtype], pred.data_ptr(), pred.stride(0), pred.stride(1), CODES[target.dtype], target.data_ptr(),
        target.stride(0), target.stride(1), weights.data_ptr(), samples, length, d, _NORMS[norm], beta,
        1.0 if grad is None else grad.item(), value.data_ptr(), dpred.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return value, dpred


def _at(x: Tensor, prefix: int) -> tuple[int, int, int, int, int, int]:
    return CODES[x.dtype], x.data_ptr(), x.stride(0), x.stride(1), prefix, x.shape[2]


def _index(index: Tensor) -> tuple[int, bool, Any]:
    return index.data_ptr(), index.dtype == torch.int64, tuple(index.shape)
