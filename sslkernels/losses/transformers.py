# SPDX-License-Identifier: Apache-2.0
"""The loss of Hugging Face's models of images and texts (CLIP, SigLIP and their kin), from what they return."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sslkernels.arguments import check_kind, check_module
from sslkernels.distributed import GroupLike
from sslkernels.functional.sigmoid import siglip_loss
from sslkernels.functional.similarity import clip_loss

__all__ = ["image_text_loss"]


def image_text_loss(
    model: nn.Module, outputs: dict[str, Any], *, group: GroupLike = None, backend: str | None = None
) -> Tensor:
    """Compute what ``model(..., return_loss=True)`` computes, without matrices, and with the negatives of all ranks.

    It is `siglip_loss` if the model has a ``logit_bias``, as SigLIP has, and else `clip_loss`.

    Args:
        model: has ``logit_scale``, the logarithm of the factor, as ``CLIPModel`` and ``SiglipModel`` of transformers
            have; it may be wrapped in DistributedDataParallel or DataParallel.
        outputs: what the model returned for a batch, with ``image_embeds`` and ``text_embeds`` ``(N, D)``, which these
            models have normalised.
        group: None takes the rows of this rank alone, as the model's own loss does. ``"world"`` takes those of every
            rank: the mean over ranks, and the gradient that DDP averages, is that of the whole batch.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows). All parameters get their gradient, scale and bias among them.

    Raises:
        TypeError, ValueError: a model or outputs without what is named above; what `clip_loss` raises.

    Cost: that of `clip_loss` or `siglip_loss`. The model still multiplies the rows of its own batch, once, forward.

    Example::

        class ImageTextTrainer(transformers.Trainer):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                outputs = model(**{**inputs, "return_loss": False})
                loss = image_text_loss(model, outputs, group="world")
                return (loss, outputs) if return_outputs else loss
    """
    name = "image_text_loss"
    check_module(name, "model", model)
    inner = getattr(model, "module", model)
    if not isinstance(getattr(inner, "logit_scale", None), Tensor):
        raise TypeError(
            f"{name}: model is a {type(inner).__name__}, which has no tensor logit_scale; pass a CLIPModel, a "
            "SiglipModel or one that has what they have."
        )
    check_kind(name, "outputs", outputs, dict, "what the model returned, with return_dict=True")
    missing = [each for each in ("image_embeds", "text_embeds") if outputs.get(each) is None]
    if missing:
        raise ValueError(f"{name}: outputs has no {missing[0]}; call the model with both images and texts.")
    rows = outputs["image_embeds"], outputs["text_embeds"]
    scale, bias = inner.logit_scale.exp(), getattr(inner, "logit_bias", None)
    if bias is None:
        return clip_loss(*rows, scale, group=group, backend=backend)
    return siglip_loss(*rows, scale, bias, group=group, backend=backend)
