# SPDX-License-Identifier: Apache-2.0
"""The doors of public functions."""

from __future__ import annotations

import torch
from doors import LABELS4, Door, pair
from wrong_values import IMAGES, INDEX, PLACES, ROWS, TOKENS

import sslkernels.functional as SF
from sslkernels.methods.vi_simsiam import power_spherical_nll

FUNCTION_DOORS: dict[str, Door] = {
    "power_spherical_nll": Door(
        power_spherical_nll, {"x": ROWS, "mean": ROWS, "kappa": torch.ones(len(ROWS))},
        {"mean": "rows", "kappa": "per row"},
    ),
    "nt_xent": pair(SF.nt_xent, "z0", "z1"),
    "info_nce": pair(SF.info_nce, "query", "key", negatives="rows or none"),
    "clip_loss": Door(
        SF.clip_loss, {"image": ROWS, "text": ROWS, "logit_scale": 1.0, "logit_bias": 0.0},
        {"image": "rows", "text": "rows", "logit_scale": "scalar", "logit_bias": "scalar or none"},
    ),
    "clip_distillation": Door(
        SF.clip_distillation,
        {"image": ROWS, "text": ROWS, "logit_scale": 1.0, "teacher_image": ROWS, "teacher_text": ROWS,
         "teacher_logit_scale": 1.0},
        {"image": "rows", "text": "rows", "logit_scale": "scalar", "teacher_image": "rows", "teacher_text": "rows",
         "teacher_logit_scale": "scalar"},
    ),
    "siglip_loss": Door(
        SF.siglip_loss, {"image": ROWS, "text": ROWS, "logit_scale": 1.0, "logit_bias": 0.0},
        {"image": "rows", "text": "rows", "logit_scale": "scalar", "logit_bias": "scalar or none"},
    ),
    "softplus_similarity": Door(
        SF.softplus_similarity, {"x": ROWS, "y": ROWS}, {"y": "rows or none", "scale": "scalar", "bias": "scalar"},
    ),
    "logsumexp_similarity": Door(
        SF.logsumexp_similarity, {"x": ROWS, "y": ROWS, "row_labels": LABELS4, "col_labels": LABELS4},
        {"y": "rows or none", "scale": "scalar", "bias": "per column or none", "exclude": "exclude", "dim": "choice",
         "row_labels": "classes", "col_labels": "classes", "keep": "choice"},
    ),
    "gather_similarity": Door(
        SF.gather_similarity, {"x": ROWS, "y": ROWS, "index": PLACES},
        {"y": "rows", "index": "places", "scale": "scalar"},
    ),
    "sampled_info_nce": Door(
        SF.sampled_info_nce, {"query": ROWS, "positive": ROWS, "pool": ROWS, "index": PLACES},
        {"query": "rows", "positive": "rows", "pool": "rows", "index": "places", "equal": "choice"},
    ),
    "mil_nce": Door(
        SF.mil_nce, {"video": ROWS, "text": ROWS, "positive": PLACES},
        {"video": "rows", "text": "rows", "positive": "places"},
    ),
    "similarity_distillation": Door(
        SF.similarity_distillation, {"query": ROWS, "key": ROWS, "bank": ROWS},
        {"query": "rows", "key": "rows", "bank": "rows", "target_temperature": "temperature", "coefficient": "share"},
    ),
    "ressl": Door(
        SF.ressl, {"query": ROWS, "key": ROWS, "bank": ROWS},
        {"query": "rows", "key": "rows", "bank": "rows", "target_temperature": "temperature"},
    ),
    "prototype_cross_entropy": Door(
        SF.prototype_cross_entropy,
        {"student": ROWS, "weight": ROWS, "teacher": ROWS, "teacher_weight": ROWS, "teacher_index": PLACES},
        {"student": "rows", "weight": "rows", "teacher": "rows", "teacher_weight": "rows or none",
         "teacher_index": "places or none", "bias": "per column or none", "row_weight": "per row or none",
         "teacher_temperature": "temperature"},
    ),
    "sinkhorn_bias": Door(
        SF.sinkhorn_bias, {"teacher": ROWS, "weight": ROWS},
        {"teacher": "rows", "weight": "rows", "row_weight": "per row or none", "iterations": "size"},
    ),
    "center_update_": Door(
        SF.center_update_, {"center": torch.zeros(len(ROWS)), "teacher": ROWS, "weight": ROWS},
        {"center": "per column", "teacher": "rows", "weight": "rows", "momentum": "share"},
    ),
    "multi_label_bce": Door(
        SF.multi_label_bce, {"query": ROWS, "dictionary": ROWS, "positive": PLACES},
        {"query": "rows", "dictionary": "rows", "positive": "places", "bias": "scalar"},
    ),
    "graph_nt_xent": Door(
        SF.graph_nt_xent, {"z": ROWS, "positive": PLACES}, {"positive": "places", "weight": "weights of pairs"},
    ),
    "topk_similarity": Door(
        SF.topk_similarity, {"x": ROWS, "y": ROWS},
        {"x": "batched rows", "y": "batched rows or none", "k": "size", "metric": "choice", "bias": "per row or none",
         "exclude": "exclude"},
    ),
    "kmeans": Door(
        SF.kmeans, {"x": ROWS, "k": 2},
        {"k": "counted", "metric": "choice", "iterations": "whole", "init": "starts", "empty": "choice",
         "balanced": "flag", "temperature": "positive"},
    ),
    "hierarchical_kmeans": Door(
        SF.hierarchical_kmeans, {"x": ROWS, "sizes": (3, 2)},
        {"sizes": "shrinking sizes", "metric": "choice", "iterations": "whole", "init": "choice", "empty": "choice"},
    ),
    "balanced_sample": Door(
        SF.balanced_sample, {"assignment": LABELS4, "count": 2}, {"assignment": "levels", "count": "sampled"},
    ),
    "attend_similarity": Door(
        SF.attend_similarity, {"query": ROWS, "keys": ROWS, "values": ROWS},
        {"query": "rows", "keys": "rows", "values": "rows", "scale": "scalar", "bias": "per column or none",
         "exclude": "exclude"},
    ),
    "dcl": pair(SF.dcl, "z0", "z1"),
    "dclw": pair(SF.dclw, "z0", "z1", sigma="positive"),
    "debiased_nt_xent": pair(SF.debiased_nt_xent, "z0", "z1", prior="below one", hardness="weight"),
    "sup_con": Door(
        SF.sup_con, {"z": ROWS, "labels": LABELS4}, {"labels": "classes", "form": "choice", "empty": "choice"},
    ),
    "linear_cross_entropy": Door(
        SF.linear_cross_entropy, {"x": ROWS, "weight": ROWS, "target": LABELS4},
        {"weight": "rows", "target": "targets", "scale": "scalar", "bias": "per column or none",
         "label_smoothing": "share", "margin": "weight", "margin_kind": "choice",
         "subcenters": "size"},
    ),
    "group_ordering": Door(
        SF.group_ordering, {"similarities": ROWS, "positives": 1},
        {"similarities": "rows", "positives": "size", "steepness": "positive", "reduction": "choice"},
    ),
    "gram_loss": Door(
        SF.gram_loss, {"x": TOKENS, "target": TOKENS}, {"x": "tokens", "target": "tokens", "clip": "choice"},
    ),
    "mean_entropy": Door(
        SF.mean_entropy, {"x": ROWS, "weight": ROWS}, {"weight": "rows", "prior": "per column or none"},
    ),
    "koleo": Door(SF.koleo, {"x": ROWS}, {"eps": "positive", "group_size": "group size or none"}),
    "uniformity": Door(SF.uniformity, {"z": ROWS}, {"t": "positive"}),
    "alignment": pair(SF.alignment, "z0", "z1", power="positive"),
    "negative_cosine_similarity": pair(SF.negative_cosine_similarity, "x0", "x1", eps="positive"),
    "byol_loss": pair(SF.byol_loss, "prediction", "target"),
    "cross_correlation_sq": pair(SF.cross_correlation_sq, "a", "b"),
    "barlow_twins": pair(SF.barlow_twins, "z0", "z1"),
    "vicreg": pair(SF.vicreg, "z0", "z1"),
    "vibcreg": pair(SF.vibcreg, "z0", "z1"),
    "vcreg": Door(SF.vcreg, {"z": ROWS}),
    "variance_hinge": Door(SF.variance_hinge, {"z": ROWS}),
    "covariance_penalty": Door(SF.covariance_penalty, {"z": ROWS}),
    "frossl": Door(SF.frossl, {"views": [ROWS, ROWS]}, {"views": "list of rows"}),
    "tico": Door(
        SF.tico, {"z0": ROWS, "z1": ROWS, "covariance": torch.eye(3)}, {"covariance": "matrix or none"},
    ),
    "sigreg": Door(SF.sigreg, {"z": ROWS}, {"z": "samples", "slices": "rows or none"}),
    "lejepa": Door(
        SF.lejepa, {"local_z": TOKENS, "global_z": TOKENS},
        {"local_z": "tokens", "global_z": "tokens", "slices": "rows or none"},
    ),
    "gather_tokens": Door(
        SF.gather_tokens, {"x": TOKENS, "index": INDEX, "pos": TOKENS[0]}, {"x": "any tokens", "pos": "positions"},
    ),
    "scatter_tokens": Door(
        SF.scatter_tokens, {"x": TOKENS[:, :2], "index": INDEX, "length": 4, "fill": 0.0},
        {"x": "tokens", "length": "length", "fill": "fill"},
    ),
    "restore_tokens": Door(
        SF.restore_tokens,
        {"visible": TOKENS[:, :2], "ids_restore": torch.tensor([[0, 1, 2]] * 2), "mask_token": torch.zeros(3)},
        {"visible": "tokens", "ids_restore": "ranks", "mask_token": "row", "pos": "positions", "prefix": "prefix"},
    ),
    "apply_masks": Door(SF.apply_masks, {"x": TOKENS, "masks": [INDEX, INDEX]}, {"x": "any tokens", "masks": "masks"}),
    "patchify_gather": Door(
        SF.patchify_gather, {"images": IMAGES[:2], "index": INDEX, "patch": 2}, {"images": "images", "patch": "size"},
    ),
    "masked_mse": Door(
        SF.masked_mse, {"pred": TOKENS, "target": TOKENS, "mask": torch.ones(2, 4)},
        {"pred": "tokens", "target": "target", "mask": "mask"},
    ),
    "masked_smooth_l1": Door(
        SF.masked_smooth_l1, {"pred": TOKENS, "target": TOKENS},
        {"pred": "tokens", "target": "target", "mask": "mask or none", "beta": "positive"},
    ),
    "random_masking": Door(SF.random_masking, {"batch": 2, "length": 8, "ratio": 0.5}),
    "block_masks": Door(SF.block_masks, {"batch": 2, "height": 8, "width": 8}),
    "span_mask": Door(SF.span_mask, {"batch": 2, "length": 40, "prob": 0.5, "span": 4}),
    "tube_masks": Door(SF.tube_masks, {"batch": 2, "frames": 2, "height": 8, "width": 8}),
    "ema_update_": Door(
        SF.ema_update_, {"targets": [ROWS.clone()], "sources": [ROWS], "momentum": 0.5},
        {"targets": "tensors", "sources": "tensors", "masters": "masters", "momentum": "momentum"},
    ),
    "queue_update_": Door(
        SF.queue_update_, {"queue": ROWS.clone(), "keys": ROWS, "position": 0},
        {"queue": "rows", "keys": "rows", "position": "position"},
    ),
}  # fmt: skip
