# SPDX-License-Identifier: Apache-2.0
"""Offers losses and ops as pure functions."""

from sslkernels.functional.correlation import (
    barlow_twins,
    covariance_penalty,
    cross_correlation_sq,
    variance_hinge,
    vicreg,
)
from sslkernels.functional.cosine import byol_loss, negative_cosine_similarity
from sslkernels.functional.covariance import frossl, tico, vcreg, vibcreg
from sslkernels.functional.ema import ema_update_, queue_update_
from sslkernels.functional.mask_samplers import block_masks, random_masking, span_mask, tube_masks
from sslkernels.functional.masked_losses import masked_mse, masked_smooth_l1
from sslkernels.functional.sigreg import lejepa, sigreg
from sslkernels.functional.similarity import clip_loss, info_nce, nt_xent
from sslkernels.functional.tokens import (
    apply_masks,
    gather_tokens,
    patchify_gather,
    restore_tokens,
    scatter_tokens,
)
from sslkernels.modules import unscriptable
from sslkernels.ops.similarity import logsumexp_similarity

__all__ = [
    "apply_masks",
    "barlow_twins",
    "block_masks",
    "byol_loss",
    "clip_loss",
    "covariance_penalty",
    "cross_correlation_sq",
    "ema_update_",
    "frossl",
    "gather_tokens",
    "info_nce",
    "lejepa",
    "logsumexp_similarity",
    "masked_mse",
    "masked_smooth_l1",
    "negative_cosine_similarity",
    "nt_xent",
    "patchify_gather",
    "queue_update_",
    "random_masking",
    "restore_tokens",
    "scatter_tokens",
    "sigreg",
    "span_mask",
    "tico",
    "tube_masks",
    "variance_hinge",
    "vcreg",
    "vibcreg",
    "vicreg",
]

for _name in __all__:
    unscriptable(globals()[_name])
