# SPDX-License-Identifier: Apache-2.0
"""Offers losses and ops as pure functions."""

from sslkernels.functional.classes import linear_cross_entropy
from sslkernels.functional.clustering import kmeans
from sslkernels.functional.correlation import (
    barlow_twins,
    covariance_penalty,
    cross_correlation_sq,
    variance_hinge,
    vicreg,
)
from sslkernels.functional.cosine import byol_loss, negative_cosine_similarity
from sslkernels.functional.covariance import frossl, tico, vcreg, vibcreg
from sslkernels.functional.distillation import clip_distillation
from sslkernels.functional.ema import ema_update_, queue_update_
from sslkernels.functional.gram import gram_loss
from sslkernels.functional.hierarchy import balanced_sample, hierarchical_kmeans
from sslkernels.functional.koleo import koleo
from sslkernels.functional.labelled import sup_con
from sslkernels.functional.mask_samplers import block_masks, random_masking, span_mask, tube_masks
from sslkernels.functional.masked_losses import masked_mse, masked_smooth_l1
from sslkernels.functional.mean_entropy import mean_entropy
from sslkernels.functional.negatives import dcl, dclw, debiased_nt_xent
from sslkernels.functional.ordering import group_ordering
from sslkernels.functional.prototypes import center_update_, prototype_cross_entropy, sinkhorn_bias
from sslkernels.functional.sampled import graph_nt_xent, mil_nce, sampled_info_nce
from sslkernels.functional.sigmoid import siglip_loss
from sslkernels.functional.sigreg import lejepa, sigreg
from sslkernels.functional.similarity import clip_loss, info_nce, nt_xent
from sslkernels.functional.sphere import alignment, uniformity
from sslkernels.functional.targets import multi_label_bce, ressl, similarity_distillation
from sslkernels.functional.tokens import (
    apply_masks,
    gather_tokens,
    patchify_gather,
    restore_tokens,
    scatter_tokens,
)
from sslkernels.modules import unscriptable
from sslkernels.ops.attention import attend_similarity
from sslkernels.ops.neighbours import topk_similarity
from sslkernels.ops.sampled import gather_similarity
from sslkernels.ops.sigmoid import softplus_similarity
from sslkernels.ops.similarity import logsumexp_similarity

__all__ = [
    "alignment",
    "apply_masks",
    "attend_similarity",
    "balanced_sample",
    "barlow_twins",
    "block_masks",
    "byol_loss",
    "center_update_",
    "clip_distillation",
    "clip_loss",
    "covariance_penalty",
    "cross_correlation_sq",
    "dcl",
    "dclw",
    "debiased_nt_xent",
    "ema_update_",
    "frossl",
    "gather_similarity",
    "gather_tokens",
    "gram_loss",
    "graph_nt_xent",
    "group_ordering",
    "hierarchical_kmeans",
    "info_nce",
    "kmeans",
    "koleo",
    "lejepa",
    "linear_cross_entropy",
    "logsumexp_similarity",
    "masked_mse",
    "masked_smooth_l1",
    "mean_entropy",
    "mil_nce",
    "multi_label_bce",
    "negative_cosine_similarity",
    "nt_xent",
    "patchify_gather",
    "prototype_cross_entropy",
    "queue_update_",
    "random_masking",
    "ressl",
    "restore_tokens",
    "sampled_info_nce",
    "scatter_tokens",
    "siglip_loss",
    "sigreg",
    "similarity_distillation",
    "sinkhorn_bias",
    "softplus_similarity",
    "span_mask",
    "sup_con",
    "tico",
    "topk_similarity",
    "tube_masks",
    "uniformity",
    "variance_hinge",
    "vcreg",
    "vibcreg",
    "vicreg",
]

for _name in __all__:
    unscriptable(globals()[_name])
