# SPDX-License-Identifier: Apache-2.0
"""Move tokens by differentiable functions: a gather, and its adjoint that writes every row once.

    gather    out[m B + b, P + k] = x[b, P + i] or fill, + pos      i = index[m, b, k]
    collect   out[b, P + s] = sum of x[m B + b, P + k] over the (m, k) with index[m, b, k] = s; fill where there is none
Each is the other's backward. The first P rows of a sample are passed through. ``index`` is (M, B, K): M index sets read
the same x in one launch. An index outside its range is an IndexError on a CPU. A GPU does not wait to check it, and
leaves NaN instead: a gather in the row that it writes for this index, a collect in the whole sample.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.registry import is_plain
from sslkernels.ops.tokens import schema as tokens
from sslkernels.ops.tokens.schema import Masked


class Gather(torch.autograd.Function):
    """Gather tokens of x (B, P + N, C) by index (M, B, K).

    ``fill`` (C,), or None, stands for indices from N on. ``pos`` (rows, C), or None, is added in fp32 (fp64): token k
    takes row P + k of it if ``by_place``, else the row of its index.
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
        return tokens.gather(x, index, fill, pos, prefix, by_place, dtype, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        need_x, _, need_fill, need_pos = ctx.needs_input_grad[:4]
        prefix, backend = ctx.prefix, ctx.backend
        dx = tokens.collect(grad, index, ctx.length, None, prefix, False, ctx.dtype, backend) if need_x else None
        dfill = dpos = None
        if need_fill:
            filled = torch.where(index >= ctx.length, 0, -1)
            dfill = tokens.sums(grad[:, prefix:], filled, 1, backend)[0]
        if need_pos:
            rows, dtype = ctx.positions
            if ctx.by_place:
                dpos = grad.sum(0, dtype=dtype)
            else:
                dpos = tokens.sums(grad[:, prefix:], index, rows, backend).to(dtype)
        return dx, None, dfill, dpos, None, None, None, None


class Collect(torch.autograd.Function):
    """Scatter tokens of x (M B, K, C) by index (M, B, K); ``fill`` (C,) in fp32 (fp64), or zero, stands elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, length: int, fill: Tensor | None, backend: str) -> Tensor:
        ctx.save_for_backward(index)
        ctx.length, ctx.backend = length, backend
        return tokens.collect(x, index, length, fill, 0, True, x.dtype, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        need_x, _, _, need_fill = ctx.needs_input_grad[:4]
        dx = dfill = None
        if need_x:
            dx = tokens.gather(grad, index, None, None, 0, False, grad.dtype, ctx.backend)
        if need_fill:
            batch = index.shape[1]
            taken = index.transpose(0, 1).reshape(batch, -1).long()
            empty = torch.zeros((batch, ctx.length), dtype=torch.int64, device=index.device)
            if ctx.length:
                empty = empty.scatter(1, taken.clamp(0, ctx.length - 1), -1)
            dfill = tokens.sums(grad, empty[None], 1, ctx.backend)[0]
        return dx, None, None, dfill, None


class Patches(torch.autograd.Function):
    """Cut patches (B, K, channels p p) out of images (B, channels, H, W) by index (B, K)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, index: Tensor, patch: int, backend: str) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.patch, ctx.backend = images.shape, patch, backend
        return tokens.patches(images, index, patch, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        (index,) = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        p = ctx.patch
        down, across = height // p, width // p
        patches = tokens.collect(grad, index[None], down * across, None, 0, False, grad.dtype, ctx.backend)
        images = patches.view(batch, down, across, channels, p, p).permute(0, 3, 1, 4, 2, 5)
        return images.reshape(ctx.shape), None, None, None


class MaskedError(torch.autograd.Function):
    """Take the weighted mean error of tokens; see `Masked`. ``need`` says if a gradient will be asked for.

    On the CPU the gradient comes with the value, in the dtype of pred. It is right if the incoming gradient is 1, and
    is computed anew otherwise: it must be multiplied before it is rounded, and one that is as large as pred is too dear
    to be held in the dtype of sums. Elsewhere the host cannot read the incoming gradient without a wait.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pred: Tensor,
        target: Tensor,
        weights: Tensor,
        norm: str,
        beta: float,
        need: bool,
        backend: str,
    ) -> Tensor:
        at_once = need and is_plain() and pred.is_cpu
        value, gradient = tokens.masked_error(Masked(pred, target, weights, norm, beta), None, at_once, backend)
        ctx.save_for_backward(pred, target, weights)
        ctx.norm, ctx.beta, ctx.backend = norm, beta, backend
        ctx.gradient = gradient if at_once else None  # which the first backward gives away
        return value

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        pred, target, weights = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None or not is_plain() or grad.item() != 1:
            del gradient  # so that there are never two
            masked = Masked(pred, target, weights, ctx.norm, ctx.beta)
            _, gradient = tokens.masked_error(masked, grad, True, ctx.backend)
        return gradient, None, None, None, None, None, None
