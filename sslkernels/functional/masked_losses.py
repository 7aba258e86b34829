# SPDX-License-Identifier: Apache-2.0
"""Regression on masked tokens: tokens that are not masked are never read, and no normalised target is stored."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    as_tensor,
    check_flag,
    check_number,
    check_tensor,
    check_tokens,
    shape_of,
)
from sslkernels.ops.dtypes import wide
from sslkernels.ops.tokens import TOKENS, MaskedError


def masked_mse(
    pred: Tensor, target: Tensor, mask: Tensor, *, normalize_target: bool = False, backend: str | None = None
) -> Tensor:
    """Compare painted patches with the true ones where they were hidden (MAE, He et al. 2022).

    The loss is the mean over masked tokens of the mean squared error over their C numbers.

    Args:
        pred, target: ``(B, L, C)``. ``target`` is a constant: one that requires a gradient is refused.
        mask: ``(B, L)``, 1 (True) where a token counts, 0 where it does not; weights in between count in part.
        normalize_target: replace each target token by ``(t - mean) / sqrt(unbiased variance + 1e-6)``, as in MAE.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 ``pred``): ``sum(mask * error) / max(sum(mask), 1)``.

    A token of mask 0 has no part in the loss, even if it holds NaN. Slices such as ``x[:, 1:]`` are not copied.

    Cost: the forward reads the masked tokens once. On a CPU it also writes the gradient of ``pred``, if there is to be
    one, and the backward passes it on; if no backward follows, it was written for nothing. The backward reads the
    masked tokens once more on a GPU, and where the incoming gradient is not 1. A second derivative raises.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.masked_mse(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), torch.tensor([[1.0, 0.0]]))
    tensor(1.)
    """
    norm = "mae" if check_flag("masked_mse", "normalize_target", normalize_target) else "none"
    if mask is None:
        raise TypeError("masked_mse: mask is None; pass a tensor of shape (B, L), 1 where a token counts.")
    return _masked("masked_mse", pred, target, mask, norm, 0.0, backend)


def masked_smooth_l1(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    beta: float = 1.0,
    normalize_target: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Compare predicted features with a teacher's, as I-JEPA and data2vec do.

    The loss is `torch.nn.functional.smooth_l1_loss` on the tokens that count.

    Args:
        pred, target, mask: see `masked_mse`; without a ``mask`` all tokens count.
        beta: the error, above 0, from which on the loss grows linearly instead of quadratically.
        normalize_target: replace each target token by ``(t - mean) / sqrt(biased variance + 1e-5)``, which is LayerNorm
            without weights, as I-JEPA does.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 ``pred``).

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.masked_smooth_l1(torch.zeros(1, 2, 1), torch.tensor([[[0.5], [3.0]]]))
    tensor(1.3125)
    """
    beta = check_number("masked_smooth_l1", "beta", beta, least=torch.finfo(torch.float32).tiny)
    norm = "layer" if check_flag("masked_smooth_l1", "normalize_target", normalize_target) else "none"
    return _masked("masked_smooth_l1", pred, target, mask, norm, beta, backend)


def _masked(
    function: str, pred: Tensor, target: Tensor, mask: Tensor | None, norm: str, beta: float, backend: str | None
) -> Tensor:
    pred, target = check_tokens(function, "pred", pred), check_tokens(function, "target", target)
    if pred.shape != target.shape or pred.device != target.device:
        raise ValueError(
            f"{function}: pred has shape {shape_of(pred)} on {pred.device} and target {shape_of(target)} on "
            f"{target.device}; both need the same."
        )
    if (pred.dtype == torch.float64) != (target.dtype == torch.float64):
        target = target.to(wide(pred.dtype))
    if norm == "mae" and pred.shape[2] < 2:
        raise ValueError(
            f"{function}: target has one number per token, which has no variance; turn normalize_target off."
        )
    if target.requires_grad:
        raise ValueError(f"{function}: target requires a gradient and the loss gives it none; pass target.detach().")
    if mask is None:
        weights = pred.new_ones(pred.shape[:2], dtype=wide(pred.dtype))
    else:
        mask = check_tensor(function, "mask", as_tensor(mask), "(B, L), 1 where a token counts")
        if mask.shape != pred.shape[:2]:
            expected = tuple(pred.shape[:2])
            raise ValueError(
                f"{function}: mask has shape {shape_of(mask)}; expected {expected}, 1 where a token counts."
            )
        if mask.is_complex() or mask.is_quantized:
            raise TypeError(f"{function}: mask has dtype {mask.dtype}; pass booleans, whole numbers or floats.")
        if mask.requires_grad:
            raise ValueError(f"{function}: mask requires a gradient and the loss gives it none; pass mask.detach().")
        weights = mask.to(pred.device, wide(pred.dtype))
    need = torch.is_grad_enabled() and pred.requires_grad
    chosen = TOKENS.choose(pred.device, pred.dtype, backend)
    return MaskedError.apply(pred, target, weights, norm, beta, need, chosen)
