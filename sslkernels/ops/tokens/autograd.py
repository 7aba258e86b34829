# SPDX-License-Identifier: Apache-2.0
"""Moving tokens, as differentiable functions: a gather, and its adjoint that writes every row once.

    gather    out[m B + b, P + k] = x[b, P + i] or fill, + pos      i = index[m, b, k]
    collect   out[b, P + s] = sum of x[m B + b, P + k] over the (m, k) with index[m, b, k] = s; fill where there is none
Each is the other's backward. The first P rows of a sample are passed through. ``index`` is (M, B, K): M index sets read
the same x in one launch. An index that may not be is an IndexError on a CPU; on a GPU, which nobody waits for, it
leaves NaN (in the row that would have been read, or in the sample that would have been written).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.registry import define, family, first_derivative, wide

_run = family("tokens")


def _gather(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return _run("gather", backend, x, index, fill, pos, prefix, by_place, dtype)


def _gather_fake(
    x: Tensor,
    index: Tensor,
    fill: Tensor | None,
    pos: Tensor | None,
    prefix: int,
    by_place: bool,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    sets, batch, kept = index.shape
    return x.new_empty((sets * batch, prefix + kept, x.shape[2]), dtype=dtype)


def _collect(
    x: Tensor,
    index: Tensor,
    length: int,
    fill: Tensor | None,
    prefix: int,
    strict: bool,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return _run("collect", backend, x, index, length, fill, prefix, strict, dtype)


def _collect_fake(
    x: Tensor,
    index: Tensor,
    length: int,
    fill: Tensor | None,
    prefix: int,
    strict: bool,
    dtype: torch.dtype,
    backend: str,
) -> Tensor:
    return x.new_empty((index.shape[1], prefix + length, x.shape[2]), dtype=dtype)


def _sums(x: Tensor, index: Tensor, length: int, backend: str) -> Tensor:
    return _run("sums", backend, x, index, length)


def _sums_fake(x: Tensor, index: Tensor, length: int, backend: str) -> Tensor:
    return x.new_empty((length, x.shape[2]), dtype=wide(x.dtype))


def _ranks(keys: Tensor, keep: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return _run("ranks", backend, keys, keep)


def _ranks_fake(keys: Tensor, keep: int, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    batch, length = keys.shape
    return (
        keys.new_empty((batch, keep), dtype=torch.int64),
        keys.new_empty((batch, length), dtype=torch.int64),
        keys.new_empty((batch, length), dtype=torch.float32),
    )


def _patches(images: Tensor, index: Tensor, patch: int, backend: str) -> Tensor:
    return _run("patches", backend, images, index, patch)


def _patches_fake(images: Tensor, index: Tensor, patch: int, backend: str) -> Tensor:
    batch, kept = index.shape
    return images.new_empty((batch, kept, images.shape[1] * patch * patch))


def _errors(
    pred: Tensor, target: Tensor, weights: Tensor, norm: str, beta: float, backend: str
) -> tuple[Tensor, Tensor]:
    return _run("errors", backend, pred, target, weights, norm, beta)


def _errors_fake(
    pred: Tensor, target: Tensor, weights: Tensor, norm: str, beta: float, backend: str
) -> tuple[Tensor, Tensor]:
    dtype = wide(pred.dtype)
    return pred.new_empty((pred.shape[0],), dtype=dtype), pred.new_empty((pred.shape[0], 2), dtype=dtype)


def _errors_backward(
    pred: Tensor, target: Tensor, scales: Tensor, moments: Tensor, norm: str, beta: float, backend: str
) -> Tensor:
    return _run("errors_backward", backend, pred, target, scales, moments, norm, beta)


def _errors_backward_fake(
    pred: Tensor, target: Tensor, scales: Tensor, moments: Tensor, norm: str, beta: float, backend: str
) -> Tensor:
    return pred.new_empty(pred.shape)


tokens_gather = define(
    "tokens_gather(Tensor x, Tensor index, Tensor? fill, Tensor? pos, SymInt prefix, bool by_place, ScalarType dtype,"
    " str backend) -> Tensor",
    _gather,
    _gather_fake,
)
tokens_collect = define(
    "tokens_collect(Tensor x, Tensor index, SymInt length, Tensor? fill, SymInt prefix, bool strict, ScalarType dtype,"
    " str backend) -> Tensor",
    _collect,
    _collect_fake,
)
tokens_sums = define("tokens_sums(Tensor x, Tensor index, SymInt length, str backend) -> Tensor", _sums, _sums_fake)
tokens_ranks = define(
    "tokens_ranks(Tensor keys, SymInt keep, str backend) -> (Tensor, Tensor, Tensor)", _ranks, _ranks_fake
)
tokens_patches = define(
    "tokens_patches(Tensor images, Tensor index, SymInt patch, str backend) -> Tensor", _patches, _patches_fake
)
tokens_errors = define(
    "tokens_errors(Tensor pred, Tensor target, Tensor weights, str norm, float beta, str backend) -> (Tensor, Tensor)",
    _errors,
    _errors_fake,
)
tokens_errors_backward = define(
    "tokens_errors_backward(Tensor pred, Tensor target, Tensor scales, Tensor moments, str norm, float beta,"
    " str backend) -> Tensor",
    _errors_backward,
    _errors_backward_fake,
)


class Gather(torch.autograd.Function):
    """x (B, P + N, C), index (M, B, K), fill (C,) for indices from N on or None, pos (rows, C) in fp32 (fp64) or None.

    ``by_place``: token k takes row P + k of pos; else it takes the row that it was read from.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        index: Tensor,
        fill: Tensor | None,
        pos: Tensor | None,
        prefix: int,
        by_place: bool,
        dtype: torch.dtype,
        backend: str,
    ) -> Tensor:
        ctx.save_for_backward(index)
        ctx.length, ctx.dtype, ctx.prefix, ctx.by_place, ctx.backend = (
            x.shape[1] - prefix, x.dtype, prefix, by_place, backend,
        )  # fmt: skip
        ctx.positions = None if pos is None else (pos.shape[0], pos.dtype)
        return tokens_gather(x, index, fill, pos, prefix, by_place, dtype, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        need_x, _, need_fill, need_pos = ctx.needs_input_grad[:4]
        prefix, backend = ctx.prefix, ctx.backend
        dx = tokens_collect(grad, index, ctx.length, None, prefix, False, ctx.dtype, backend) if need_x else None
        dfill = dpos = None
        if need_fill:
            filled = torch.where(index >= ctx.length, 0, -1)
            dfill = tokens_sums(grad[:, prefix:], filled, 1, backend)[0]
        if need_pos:
            rows, dtype = ctx.positions
            if ctx.by_place:
                dpos = grad.sum(0, dtype=dtype)
            else:
                dpos = tokens_sums(grad[:, prefix:], index, rows, backend).to(dtype)
        return dx, None, dfill, dpos, None, None, None, None


class Collect(torch.autograd.Function):
    """x (M B, K, C), index (M, B, K), fill (C,) in fp32 (fp64) where nothing arrives, zero for None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, length: int, fill: Tensor | None, backend: str) -> Tensor:
        ctx.save_for_backward(index)
        ctx.length, ctx.backend = length, backend
        return tokens_collect(x, index, length, fill, 0, True, x.dtype, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        need_x, _, _, need_fill = ctx.needs_input_grad[:4]
        dx = dfill = None
        if need_x:
            dx = tokens_gather(grad, index, None, None, 0, False, grad.dtype, ctx.backend)
        if need_fill:
            batch = index.shape[1]
            taken = index.transpose(0, 1).reshape(batch, -1).long()
            empty = torch.zeros((batch, ctx.length), dtype=torch.int64, device=index.device)
            if ctx.length:
                empty = empty.scatter(1, taken.clamp(0, ctx.length - 1), -1)
            dfill = tokens_sums(grad, empty[None], 1, ctx.backend)[0]
        return dx, None, None, dfill, None


class Patches(torch.autograd.Function):
    """Pixels of the patches (B, K, channels p p) of images (B, channels, H, W); index (B, K)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, index: Tensor, patch: int, backend: str) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.patch, ctx.backend = images.shape, patch, backend
        return tokens_patches(images, index, patch, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        p = ctx.patch
        down, across = height // p, width // p
        patches = tokens_collect(grad, index[None], down * across, None, 0, False, grad.dtype, ctx.backend)
        images = patches.view(batch, down, across, channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return images.reshape(ctx.shape), None, None, None


class TokenErrors(torch.autograd.Function):
    """The mean error (R,) over the features of each row of pred (R, C) with a weight; zero, and not read, without one.

    ``norm``: what the rows of target (R, C) are standardised by, "none", "mae" ((t - mean) / sqrt(unbiased variance +
    1e-6)) or "layer" (biased variance, 1e-5). ``beta``: 0 for squares, else where smooth L1 turns linear.
    """

    @staticmethod
    def forward(
        ctx: Any, pred: Tensor, target: Tensor, weights: Tensor, norm: str, beta: float, backend: str
    ) -> Tensor:
        errors, moments = tokens_errors(pred, target, weights, norm, beta, backend)
        ctx.save_for_backward(pred, target, weights, moments)
        ctx.norm, ctx.beta, ctx.backend = norm, beta, backend
        return errors

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        pred, target, weights, moments = ctx.saved_tensors
        scales = torch.where(weights != 0, grad / pred.shape[1], 0)
        dpred = tokens_errors_backward(pred, target, scales, moments, ctx.norm, ctx.beta, ctx.backend)
        return dpred, None, None, None, None, None
