# SPDX-License-Identifier: Apache-2.0
"""Refuse second derivatives: the gradients that the ops give cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _NoSecondDerivative(torch.autograd.Function):
    """Pass gradients on, and raise when somebody differentiates them instead of letting them pass for constants.

    They depend on the first ``count`` tensors, so differentiating with respect to those ends up here.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.view_as(gradient) for gradient in tensors[count:])

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            "sslkernels gives first derivatives only, and a second derivative was asked for; "
            "compute the part that needs it (a gradient penalty, say) with plain PyTorch."
        )


def first_derivative(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Decorate the backward of an autograd.Function so that its gradients cannot be differentiated again.

    torch's once_differentiable complains only where the incoming gradient requires one; a gradient penalty on a loss
    would pass through it as a constant.
    """

    @functools.wraps(backward)
    def wrapper(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            outputs = backward(ctx, *grads)
        present = [output for output in outputs if output is not None]
        inputs = [x for x in (*ctx.saved_tensors, *grads) if x is not None and x.requires_grad]
        guarded = iter(_NoSecondDerivative.apply(len(inputs), *inputs, *present))
        return tuple(None if output is None else next(guarded) for output in outputs)

    return wrapper
