# SPDX-License-Identifier: Apache-2.0
"""Compute SigLIP's loss: every pair of an image and a text is classified alone, so no row waits for a sum."""

from __future__ import annotations

from torch import Tensor

from sslkernels.arguments import REDUCTIONS, check_choice, check_pair, check_scalar
from sslkernels.distributed import GroupLike
from sslkernels.functional.similarity import sharded
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.sigmoid import reduced
from sslkernels.ops.sigmoid.schema import Pairs


def siglip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None = None,
    *,
    reduction: str = "mean",
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Tell pairs that belong together from all others, one by one: SigLIP's loss (Zhai et al. 2023, algorithm 1).

    The mean over N images of ``loss_i = softplus(-l_ii) + sum_{j != i} softplus(l_ij)``, with the logits
    ``l_ij = logit_scale * <image_i, text_j> + logit_bias``, as in big_vision and open_clip.

    Args:
        image, text: ``(N, D)``, ``N >= 1``, used as given: both already normalised.
        logit_scale: the factor itself (already exponentiated); number or one-element tensor of any shape.
        logit_bias: number or one-element tensor of any shape, which is added to every logit; None adds nothing.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for ``(N,)``, the losses of the images.
        group: ranks whose texts meet the images of this one; the mean over ranks of the returned loss is the loss of
            the concatenated batch. ``None`` never communicates; ``"world"`` is every rank. Ranks may hold different N,
            and must multiply a "mean" or a "sum" by the same number.
        backend: see `softplus_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows), or ``(N,)``.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend, no rows; ranks that
            disagree. Of two tensors, scale and bias, ranks compare the values of the scale.

    Cost: ``6*N^2*D`` operations for value and gradient, which come together: a weight does not wait for a sum, so there
    is no second product of the logits. ``2*N^2*D`` for the value alone. ``O(N*D)`` memory. With a group no rank
    gathers: texts travel round a ring with their gradients behind them, two blocks at a time whatever the number of
    ranks W; each rank sends ``W - 1`` blocks of rows, and of gradients. All of this happens in the forward, and the
    backward sends nothing; with ``reduction="none"`` weights are known in the backward alone, where texts travel again.
    ``torch.compile(fullgraph=True)`` works for ``group=None``.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.siglip_loss(torch.eye(3), torch.eye(3), 10.0, -10.0)
    tensor(0.6932)
    """
    check_pair("siglip_loss", {"image": image, "text": text}, gathered=group is not None)
    logit_scale = check_scalar("siglip_loss", "logit_scale", logit_scale)
    logit_bias = 0.0 if logit_bias is None else check_scalar("siglip_loss", "logit_bias", logit_bias)
    check_choice("siglip_loss", "reduction", reduction, REDUCTIONS)
    image, text = promoted(image, text)
    dtype = compute_dtype(image)
    image, text = image.to(dtype), text.to(dtype)
    scale, bias = scale_tensor(logit_scale, image), scale_tensor(logit_bias, image)
    settings = {"logit_scale": logit_scale, "logit_bias": logit_bias, "reduction": reduction}
    shard = sharded(group, "siglip_loss", image, text, scale, bias, **settings)
    return reduced(Pairs(image, text, scale, bias, True), reduction, shard, backend)
