# SPDX-License-Identifier: Apache-2.0
"""Sum softplus of all-pairs similarities, the core of sigmoid losses, without the matrix."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import check_alike, check_rows, check_scalar
from sslkernels.distributed import Shard
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.sigmoid.autograd import reduced, sums
from sslkernels.ops.sigmoid.schema import SIGMOID, Pairs

__all__ = ["SIGMOID", "reduced", "softplus_similarity"]


def softplus_similarity(
    x: Tensor,
    y: Tensor | None = None,
    scale: float | Tensor = 1.0,
    bias: float | Tensor = 0.0,
    *,
    backend: str | None = None,
) -> Tensor:
    """Sum softplus of similarities, the core of sigmoid losses (SigLIP), without forming their matrix.

    ``value_i = sum_j log(1 + exp(scale * <x_i, y_j> + bias))``

    Args:
        x: rows ``(N, D)``; float32, float64, bfloat16 or float16. Any row stride.
        y: rows ``(M, D)`` of the same dtype; ``None`` means ``y = x``, the diagonal included.
        scale, bias: any real numbers, or one-element tensors, which then receive their gradients.
        backend: ``"reference"``, ``"cpu"`` or ``"triton"``; by default the fastest that can run.

    Returns:
        float32 ``(N,)`` (float64 for float64 rows), zeros where M is 0. It is exact at any size of the logits: small
        terms keep their digits, large ones do not overflow. NaN rows give NaN.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend.

    Cost: ``2*N*M*D`` operations forward and ``4*N*M*D`` to ``6*N*M*D`` backward (on the CPU half for x with itself),
    ``O((N + M)*D)`` bytes. A second derivative raises.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.softplus_similarity(torch.eye(3), scale=2.0, bias=-1.0)
    tensor([1.9398, 1.9398, 1.9398])
    """
    check_rows("softplus_similarity", "x", x)
    if y is not None:
        check_alike("softplus_similarity", "y", check_rows("softplus_similarity", "y", y), "x", x, rows=False)
    scale = check_scalar("softplus_similarity", "scale", scale)
    bias = check_scalar("softplus_similarity", "bias", bias)
    if y is not None:
        x, y = promoted(x, y)
    dtype = compute_dtype(x)
    x, y = x.to(dtype), None if y is None else y.to(dtype)
    return sums(Pairs(x, y, scale_tensor(scale, x), scale_tensor(bias, x), False), Shard.alone, backend)
