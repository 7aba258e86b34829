# SPDX-License-Identifier: Apache-2.0
"""Every argument of every public function, module and method is given every wrong value of its kind.

Each call must raise one sentence that names the argument. `OF_NAME` gives the kind of an argument by its name, and
`Door.kinds` does where the name means something else. An argument without a kind fails the walk, and so does a public
name without a door.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from wrong_values import IMAGES, INDEX, KINDS, LABELS, PLACES, ROWS, TOKENS

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels import evaluation, losses, methods, models, terms
from sslkernels.data import OneView, TwoViews
from sslkernels.losses import metric_learning
from sslkernels.losses.info_nce import InfoNCE
from sslkernels.methods.method import Masked
from sslkernels.methods.vi_simsiam import power_spherical_nll
from sslkernels.models import ResNet, TokenTransformer, ViT, resnet_small

pytestmark = pytest.mark.filterwarnings("ignore:memory_bank_size", "ignore::UserWarning:torch.*")

OF_NAME = {
    "allow_overlap": "flag", "backend": "backend", "bias": "flag", "concat": "flag", "convention": "choice",
    "device": "device", "generator": "generator", "group": "group", "normalize": "flag", "normalize_target": "flag",
    "reduction": "choice", "ring": "flag", "side": "choice or none", "statistics": "choice", "symmetric": "flag",
    "temperature": "temperature", "eps": "weight", "lambd": "weight", "sim": "weight", "var": "weight", "cov": "weight",
    "rho": "weight", "margin": "weight", "beta": "share", "weight": "share", "invariance_weight": "weight",
    "knots": "counted", "t_max": "positive", "num_slices": "counted", "batch": "counted", "length": "counted",
    "height": "counted", "width": "counted", "frames": "counted", "span": "size", "min_spans": "whole",
    "min_keep": "size", "ratio": "share",
    "prob": "share", "enc_scale": "range", "pred_scale": "range", "aspect_ratio": "range", "enc_blocks": "counted",
    "pred_blocks": "counted", "gather_distributed": "flag", "feature_dim": "counted", "projection_dim": "counted",
    "hidden_dim": "counted", "queue_size": "counted", "momentum": "share", "backbone": "module", "views": "views",
    "whole": "flag", "x": "rows", "z": "rows", "z0": "rows", "z1": "rows", "index": "index",
}  # fmt: skip


LABELS4 = torch.tensor([0, 1, 0, 1])


@dataclass
class Door:
    call: Callable[..., Any]
    good: dict[str, Any]
    kinds: dict[str, str] = field(default_factory=dict)
    says: str | None = None  # the beginning of the sentence, by default the name
    signature: Callable[..., Any] | None = None  # the function that has the parameters, if it is not `call`


def pair(call: Callable[..., Any], first: str, second: str, **kinds: str) -> Door:
    return Door(call, {first: ROWS, second: ROWS}, {first: "rows", second: "rows", **kinds})


DOORS: dict[str, Door] = {
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

OF_CLIP = {
    "local_loss": "flag", "gather_with_grad": "flag", "cache_labels": "flag", "rank": "whole", "world_size": "size",
    "use_horovod": "flag",
}  # fmt: skip
IN_BATCHES = {"image_features": "rows", "text_features": "rows", "logit_scale": "scalar", "output_dict": "flag"}
LOSSES: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, str]]] = {
    # for each: kinds of the constructor, good arguments of the call, kinds of the call
    "NTXentLoss": ({"memory_bank_size": "bank"}, {"out0": ROWS, "out1": ROWS}, {"out0": "rows", "out1": "rows"}),
    "InfoNCELoss": ({}, {"query": ROWS, "key": ROWS}, {"query": "rows", "key": "rows", "negatives": "rows or none"}),
    "ClipLoss": (
        OF_CLIP, {"image_features": ROWS, "text_features": ROWS, "logit_scale": 1.0},
        {**IN_BATCHES, "logit_bias": "scalar or none"},
    ),
    "DistillClipLoss": (
        OF_CLIP,
        {"image_features": ROWS, "text_features": ROWS, "logit_scale": 1.0, "dist_image_features": ROWS,
         "dist_text_features": ROWS, "dist_logit_scale": 1.0},
        {**IN_BATCHES, "dist_image_features": "rows", "dist_text_features": "rows", "dist_logit_scale": "scalar"},
    ),
    "CoCaLoss": (
        {**OF_CLIP, "caption_loss_weight": "scalar", "clip_loss_weight": "scalar", "pad_id": "any whole"},
        {"image_features": ROWS, "text_features": ROWS, "logits": torch.zeros(4, 2, 5),
         "labels": torch.ones(4, 2, dtype=torch.int64), "logit_scale": 1.0},
        {**IN_BATCHES, "logits": "captions", "labels": "words"},
    ),
    "SigLipLoss": (
        {"cache_labels": "flag", "rank": "whole", "world_size": "size", "dist_impl": "choice or none",
         "chunk_size": "whole"},
        {"image_features": ROWS, "text_features": ROWS, "logit_scale": 1.0, "logit_bias": 0.0},
        {"image_features": "rows", "text_features": "rows", "logit_scale": "scalar", "logit_bias": "scalar or none",
         "output_dict": "flag"},
    ),
    "NegativeCosineSimilarity": ({"dim": "dimension", "eps": "positive"}, {"x0": ROWS, "x1": ROWS},
                                 {"x0": "any rows", "x1": "any rows"}),
    "SymNegCosineSimilarityLoss": (
        {}, {"out0": (ROWS, ROWS), "out1": (ROWS, ROWS)}, {"out0": "projected", "out1": "projected"},
    ),
    "DCLLoss": ({"weight_fn": "function or none"}, {"out0": ROWS, "out1": ROWS}, {"out0": "rows", "out1": "rows"}),
    "DCLWLoss": ({"sigma": "positive"}, {"out0": ROWS, "out1": ROWS}, {"out0": "rows", "out1": "rows"}),
    "DirectCLRLoss": (
        {"loss_dim": "size", "memory_bank_size": "bank"}, {"out0": ROWS, "out1": ROWS},
        {"out0": "maps", "out1": "maps"},
    ),
    "CO2Regularizer": (
        {"alpha": "number", "t_consistency": "positive", "memory_bank_size": "bank"}, {"out0": ROWS, "out1": ROWS},
        {"out0": "rows", "out1": "rows"},
    ),
    "MACLLoss": (
        {"temperature": "positive", "alpha": "share", "A_0": "share"}, {"z0": ROWS, "z1": ROWS}, {},
    ),
    "HypersphereLoss": (
        {"t": "positive", "lam": "number", "alpha": "positive"}, {"z_a": ROWS, "z_b": ROWS},
        {"z_a": "rows", "z_b": "rows"},
    ),
    "BarlowTwinsLoss": ({"lambda_param": "weight"}, {"z_a": ROWS, "z_b": ROWS}, {"z_a": "rows", "z_b": "rows"}),
    "VICRegLoss": ({"lambda_param": "weight", "mu_param": "weight", "nu_param": "weight"}, {"z_a": ROWS, "z_b": ROWS},
                   {"z_a": "positions of rows", "z_b": "positions of rows"}),
    "VCRegLoss": ({"std_coeff": "weight", "cov_coeff": "weight", "epsilon": "weight"}, {"z_i": ROWS}, {"z_i": "rows"}),
    "VIbCRegLoss": ({"sim_loss_weight": "weight", "var_loss_weight": "weight", "cov_loss_weight": "weight"},
                    {"z1": ROWS, "z2": ROWS}, {"z1": "rows", "z2": "rows"}),
    "KoLeoLoss": ({"p": "positive", "eps": "positive"}, {"x": ROWS}, {}),
    "DINOLoss": (
        {"output_dim": "counted", "warmup_teacher_temp": "positive", "teacher_temp": "positive",
         "warmup_teacher_temp_epochs": "whole", "student_temp": "positive", "center_momentum": "share",
         "center_mode": "choice"},
        {"teacher_out": [ROWS, ROWS], "student_out": [ROWS, ROWS]},
        {"teacher_out": "crops", "student_out": "crops", "teacher_temp": "positive or none", "epoch": "whole or none"},
    ),
    "IBOTPatchLoss": (
        {"output_dim": "counted", "teacher_temp": "positive", "student_temp": "positive", "center_mode": "choice",
         "center_momentum": "share"},
        {"teacher_out": ROWS, "student_out": ROWS, "mask": torch.ones(2, 2, 1, dtype=torch.bool)},
        {"teacher_out": "rows", "student_out": "rows", "mask": "bool mask", "teacher_temp": "positive or none"},
    ),
    "MSNLoss": (
        {"temperature": "positive", "sinkhorn_iterations": "whole", "regularization_weight": "weight"},
        {"anchors": ROWS, "targets": ROWS, "prototypes": ROWS},
        {"anchors": "rows", "targets": "rows", "prototypes": "rows", "target_sharpen_temperature": "positive"},
    ),
    "PMSNLoss": (
        {"temperature": "positive", "sinkhorn_iterations": "whole", "regularization_weight": "weight",
         "power_law_exponent": "number"},
        {"anchors": ROWS, "targets": ROWS, "prototypes": ROWS},
        {"anchors": "rows", "targets": "rows", "prototypes": "rows", "target_sharpen_temperature": "positive"},
    ),
    "SwaVLoss": (
        {"temperature": "positive", "sinkhorn_iterations": "size", "sinkhorn_epsilon": "positive",
         "sinkhorn_gather_distributed": "flag"},
        {"high_resolution_outputs": [ROWS, ROWS], "low_resolution_outputs": [ROWS], "queue_outputs": [ROWS, ROWS]},
        {"high_resolution_outputs": "crops", "low_resolution_outputs": "few crops", "queue_outputs": "crops or none"},
    ),
    "CAPILoss": (
        {"teacher_temperature": "positive", "student_temperature": "positive", "sinkhorn_iterations": "size"},
        {"teacher_logits": TOKENS, "student_logits": TOKENS},
        {"teacher_logits": "tokens", "student_logits": "tokens", "teacher_index": "crop index or none"},
    ),
    "FroSSLLoss": ({}, {"z_views": [ROWS, ROWS]}, {"z_views": "list of rows"}),
    "TiCoLoss": ({}, {"z_a": ROWS, "z_b": ROWS}, {"z_a": "rows", "z_b": "rows", "update_covariance_matrix": "flag"}),
    "SIGReg": ({"num_vectors": "size"}, {"proj": ROWS}, {"proj": "samples", "slices": "rows or none"}),
    "LeJEPALoss": (
        {"lambda_param": "share", "sigreg_knots": "size", "sigreg_t_max": "positive", "sigreg_num_vectors": "size"},
        {"local_proj": TOKENS, "global_proj": TOKENS}, {"local_proj": "tokens", "global_proj": "tokens"},
    ),
}  # fmt: skip


REQUIRED: dict[str, dict[str, Any]] = {
    "DINOLoss": {"output_dim": 3},
    "IBOTPatchLoss": {"output_dim": 3},
    "CoCaLoss": {"caption_loss_weight": 2.0, "clip_loss_weight": 1.0},
}


def build(name: str) -> Callable[..., Any]:
    return lambda **options: getattr(losses, name)(**options)


def apply(name: str) -> Callable[..., Any]:
    return lambda **arguments: getattr(losses, name)(**REQUIRED.get(name, {}))(**arguments)


for name, (of_constructor, good, of_call) in LOSSES.items():
    kind = getattr(losses, name)
    DOORS[name] = Door(build(name), REQUIRED.get(name, {}), of_constructor, signature=kind.__init__)
    DOORS[f"{name}()"] = Door(apply(name), good, of_call, says=name, signature=kind.forward)

PAIR_LOSS = {"distance": "absent", "reducer": "absent", "embedding_regularizer": "absent"}
COMPARED = {
    "embeddings": "rows", "labels": "whole labels or none", "indices_tuple": "pairs or none",
    "ref_emb": "rows or none", "ref_labels": "whole labels or none",
}  # fmt: skip
for kind in (metric_learning.NTXentLoss, metric_learning.SupConLoss):
    name = f"metric_learning.{kind.__name__}"
    DOORS[name] = Door(kind, {}, PAIR_LOSS, says=kind.__name__, signature=metric_learning.PairLoss.__init__)
    DOORS[f"{name}()"] = Door(
        kind(), {"embeddings": ROWS, "labels": LABELS4, "ref_emb": ROWS, "ref_labels": LABELS4}, COMPARED,
        says=kind.__name__, signature=kind.forward,
    )  # fmt: skip
DOORS |= {
    "CrossBatchMemory": Door(
        metric_learning.CrossBatchMemory, {"loss": metric_learning.NTXentLoss(), "embedding_size": 3},
        {"loss": "module", "embedding_size": "counted", "memory_size": "counted", "miner": "function or none"},
    ),
    "CrossBatchMemory()": Door(
        lambda **given: metric_learning.CrossBatchMemory(metric_learning.NTXentLoss(), 3)(**given),
        {"embeddings": ROWS, "labels": LABELS4},
        {**COMPARED, "labels": "whole labels", "enqueue_mask": "mask of rows or none"},
        signature=metric_learning.CrossBatchMemory.forward,
    ),
    "InfoNCE": Door(InfoNCE, {}, {"negative_mode": "choice"}),
    "InfoNCE()": Door(
        lambda **given: InfoNCE()(**given), {"query": ROWS, "positive_key": ROWS},
        {"query": "rows", "positive_key": "rows", "negative_keys": "rows or none"}, signature=InfoNCE.forward,
    ),
}  # fmt: skip

VIEWS = {None: "some views", 1: "view", 2: "views", 3: "three views", 4: "four views"}
# A run takes these from the data, and knows the others of each sample.
FILLED = {
    "DIET": {"samples": 9},
    "DeepClusterV2": {"samples": 40},
    "PAL": {"samples": 9},
    "PIRL": {"samples": 40},
    "MarginClassifier": {"classes": 3},
    "ColloSSL": {"backbone": nn.Flatten(), "feature_dim": 24},
    "CLIP": {"encoders": {"text": TokenTransformer(9, 4, width=16)}},
    "UVC": {"backbone": resnet_small(3)},
    "IBOT": {
        "backbone": ViT((8, 8), 2, width=32, depth=1, class_token=True, mask_token=True),
        "feature_dim": 32,
    },
    "MSN": {"backbone": ViT((8, 8), 2, width=32, depth=1), "feature_dim": 32},
}
KNOWN = {
    "SIE": {"action": torch.ones(len(IMAGES), 4)},
    "PIRL": {"index": torch.arange(len(IMAGES))},
    "DIET": {"index": LABELS},
    "DeepClusterV2": {"index": LABELS},
    "CLIP": {"text": torch.ones(len(IMAGES), 4, dtype=torch.int64)},
    "PAL": {"index": LABELS, "label": LABELS},
}
KNOWN |= dict.fromkeys(("MarginClassifier", "SupCon"), {"label": LABELS})
METHODS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    kind.__name__: (
        {"backbone": ViT((8, 8), 2, width=32, depth=1)} if issubclass(kind, Masked)
        else {"backbone": resnet_small(), "feature_dim": 128, **FILLED.get(kind.__name__, {})},
        {"mask_ratio": "share", "predictor": "module or none", "action_dim": "counted", "equivariant": "positive share",
         "inv": "weight", "equi": "weight", "tasks": "names", "weights": "weights or none",
         "permutations": "size", "grid": "size", "whole": "share", "samples": "counted", "patches": "counted",
         "negatives": "size", "jigsaw": "share", "memory_momentum": "share", "dense": "share",
         "dense_queue_size": "counted", "gamma": "weight", "alpha": "share", "steepness": "positive",
         "prototypes": "size", "newest": "size", "label_smoothing": "share",
         "every": "size", "generated": "size", "mu": "weight", "hardness": "share", "warm_up": "size or zero",
         "classes": "counted", "kind": "choice", "margin": "weight", "scale": "positive or none",
         "subcenters": "counted", "base": "choice", "share": "share", "judge": "module or none", "sensors": "size",
         "encoders": "encoders", "pairs": "choice", "coefficient": "share", "target_temperature": "temperature",
         "projector_dim": "counted", "positives": "size", "neighbours": "size", "concentration": "weight",
         "orthogonality": "weight", "clusterings": "counted", "warmup": "share", "center_momentum": "share",
         "freeze": "share", "norm_last": "flag", "batch_norm": "flag", "teacher_temperature": "range",
         "epsilon": "positive",
         "iterations": "size", "queue_from": "size or zero", "sharpen": "positive", "me_max": "weight",
         "sinkhorn": "flag", "shared_head": "flag", "mask_probability": "positive share", "centering": "choice"}
        | dict.fromkeys(("decoder_width", "decoder_depth", "predictor_width", "predictor_depth"), "counted")
        | {"backbone": "vit" if kind.encoder == "tokens" else "module", "views": VIEWS[kind.views]}
        | ({"queue_size": "size or zero"} if kind is methods.SwAV else {})
        | ({"mask_ratio": "range"} if kind is methods.IBOT else {}),
    )
    for kind in methods.METHODS.values()
}  # fmt: skip
SMALL = {"projection_dim": 8, "projector_dim": 8, "hidden_dim": 8, "queue_size": 32, "prototypes": 4}


def method_of(name: str) -> Any:
    kind, good = getattr(methods, name), METHODS[name][0]
    return kind(**good, **{key: value for key, value in SMALL.items() if key in inspect.signature(kind).parameters})


def views_of(name: str) -> Callable[..., Any]:
    return lambda views: method_of(name)(views, **KNOWN.get(name, {}))


OTHER_VIEWS = {"ColloSSL": torch.rand(4, 3, 8), "UVC": torch.rand(4, 3, 8, 8)}
for name, (good, kinds) in METHODS.items():
    DOORS[name] = Door(getattr(methods, name), good, {key: kinds[key] for key in kinds if key != "views"})
    seen = OTHER_VIEWS.get(name, IMAGES)
    DOORS[f"{name}()"] = Door(
        views_of(name), {"views": [seen] * (getattr(methods, name).views or 2)}, {"views": kinds["views"]}, says=name
    )

DOORS["Auxiliary"] = Door(
    methods.Auxiliary, {"method": method_of("SimCLR"), "term": terms.Rotation(128)},
    {"method": "module", "term": "module", "weight": "weight"},
)  # fmt: skip
TERMS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    **{name: ({}, {}) for name in ("Rotation", "Reversal", "Permutation", "Warp", "Trajectory")},
    "Jigsaw": ({}, {"grid": "size", "permutations": "size", "whole": "share", "grey": "share"}),
    "Context": ({}, {"gap": "share", "jitter": "share", "grey": "share"}),
    "Labels": ({"classes": 3}, {"classes": "counted"}),
    "OddOneOut": ({}, {"clips": "counted", "share": "positive share", "pieces": "size"}),
    "Places": ({"place": torch.rand(9, 2), "cells": 3}, {"place": "rows", "cells": "counted"}),
    "ActionMatch": (
        {"action_dim": 2}, {"action_dim": "counted", "match_dim": "counted", "match_temperature": "temperature"},
    ),
}  # fmt: skip
for name, (good, kinds) in TERMS.items():
    DOORS[name] = Door(getattr(terms, name), {"feature_dim": 8, **good}, kinds)

DOORS |= {
    "MemoryQueue": Door(sk.MemoryQueue, {"size": 4, "dim": 3}, {"size": "counted", "dim": "counted"}),
    "MemoryQueue.enqueue": Door(
        lambda keys, *, group=None: sk.MemoryQueue(4, 3).enqueue(keys, group=group), {"keys": ROWS}, {"keys": "rows"},
        says="MemoryQueue",
    ),
    "MemoryBank": Door(
        sk.MemoryBank, {"samples": 4, "dim": 3, "momentum": 0.5},
        {"samples": "counted", "dim": "counted", "momentum": "share"},
    ),
    "MemoryBank.update": Door(
        lambda index, rows, *, group=None: sk.MemoryBank(len(ROWS), 3).update(index, rows, group=group),
        {"index": torch.arange(len(ROWS)), "rows": ROWS}, {"rows": "rows"}, says="MemoryBank",
    ),
    "Center": Door(sk.Center, {"num": 4}, {"num": "counted"}),
    "Center.collect": Door(lambda teacher: sk.Center(4).collect(teacher), {"teacher": ROWS}, {"teacher": "rows"},
        says="Center"),
    "Center.bias": Door(
        lambda temperature: sk.Center(4).bias(temperature), {"temperature": 0.1}, says="Center",
    ),
    "update_momentum": Door(
        lambda model, model_ema, m: sk.update_momentum(model, model_ema, m),
        {"model": nn.Linear(2, 2), "model_ema": nn.Linear(2, 2), "m": 0.5},
        {"model": "module", "model_ema": "module", "m": "momentum"},
    ),
    "use_backend": Door(lambda name: sk.use_backend(name).__enter__(), {"name": "cpu"}, {"name": "backend name"}),
    "ProjectionHead": Door(
        models.ProjectionHead, {"in_dim": 3, "hidden_dim": 3, "out_dim": 3},
        {"in_dim": "counted", "hidden_dim": "counted", "out_dim": "counted", "layers": "counted", "norm_out": "flag"},
    ),
    "ResNet": Door(
        ResNet, {"in_channels": 1, "widths": (4, 8), "blocks": (1, 1)},
        {"in_channels": "counted", "widths": "sizes", "blocks": "sizes"},
    ),
    "resnet_small": Door(resnet_small, {"in_channels": 1}, {"in_channels": "counted"}),
    "Transformer": Door(models.Transformer, {"width": 8, "depth": 1, "heads": 2}, {"width": "counted",
        "depth": "counted",
        "heads": "counted"}),
    "ViT": Door(
        ViT, {"image_size": (8, 8), "patch_size": 2},
        {"image_size": "image size", "patch_size": "size", "in_channels": "counted", "width": "counted",
            "depth": "counted",
            "heads": "counted", "class_token": "flag", "registers": "size or zero", "mask_token": "flag",
            "any_size": "flag"},
    ),
    "DINOHead": Door(
        models.DINOHead, {"in_dim": 3, "out_dim": 4, "hidden_dim": 3, "bottleneck_dim": 2},
        {"in_dim": "counted", "out_dim": "counted", "bottleneck_dim": "counted", "layers": "counted", "last": "choice",
         "batch_norm": "flag"},
    ),
    "Conv1dNet": Door(
        models.Conv1dNet, {"in_channels": 2, "widths": (4, 8)},
        {"in_channels": "counted", "widths": "layers", "kernel": "size"},
    ),
    "SpectrogramNet": Door(models.SpectrogramNet, {"widths": (4, 8)}, {"widths": "layers"}),
    "ColumnTransformer": Door(
        models.ColumnTransformer, {"columns": 3, "width": 8, "depth": 1, "heads": 2},
        {"columns": "counted", "width": "counted", "depth": "counted", "heads": "counted"},
    ),
    "TokenTransformer": Door(
        models.TokenTransformer, {"vocabulary": 9, "length": 4, "width": 8, "depth": 1, "heads": 2},
        {"vocabulary": "counted", "length": "counted", "width": "counted", "depth": "counted", "heads": "counted"},
    ),
    "GIN": Door(models.GIN, {"in_features": 3, "width": 8}, {"in_features": "counted", "width": "counted",
        "depth": "size"}),
    "OrientedFilters": Door(
        models.OrientedFilters, {"in_channels": 1}, {"in_channels": "counted", "orientations": "counted"},
    ),
    "DirectPred": Door(models.DirectPred, {"dim": 3}, {"dim": "counted", "eps": "number"}),
    "TwoViews": Door(
        TwoViews, {"channels": 1, "image_size": (8, 8)}, {"channels": "channels", "image_size": "image size"},
    ),
    "OneView": Door(OneView, {"channels": 1, "image_size": (8, 8)}, {"channels": "channels",
        "image_size": "image size"}),
    "patchify": Door(models.patchify, {"images": IMAGES, "patch": 2}, {"images": "whole images", "patch": "size"}),
    "unpatchify": Door(
        models.unpatchify, {"patches": torch.rand(2, 16, 4), "channels": 1, "grid": (4, 4)},
        {"patches": "patches", "channels": "size", "grid": "image size"},
    ),
    "sincos_positions": Door(
        models.sincos_positions, {"height": 2, "width": 2, "features": 8},
        {"height": "counted", "width": "counted", "features": "counted"},
    ),
    **{
        name: Door(
            getattr(evaluation, name),
            {"features": ROWS, "labels": LABELS, "test_features": ROWS, "test_labels": LABELS},
            {"features": "rows", "labels": "labels", "test_features": "rows", "test_labels": "labels", "shots": "size",
             "draws": "size", "k": "size"},
        )
        for name in ("few_shot", "knn")
    },
    **{
        name: Door(
            getattr(evaluation, name),
            {"features": ROWS, "labels": LABELS, "test_features": ROWS, "test_labels": LABELS, "shots": 2},
            {"features": "rows", "labels": "labels", "test_features": "rows", "test_labels": "labels",
             "shots": "size or none", "draws": "size", "folds": "folds or none"},
        )
        for name in ("linear_probe", "linear_svm")
    },
    **{
        name: Door(
            getattr(evaluation, name),
            {"features": ROWS, "labels": LABELS, "test_features": ROWS[:1], "test_labels": LABELS[:1]},
            {"features": "rows", "labels": "labels", "test_features": "rows", "test_labels": "labels", "draws": "size",
             "k": "size", "temperature": "positive", "regression": "flag", "noise": "positive share",
             "supervised": "share", "fit": "function"},
        )
        for name in ("weighted_knn", "rrm", "risk_decomposition")
    },
    "clustering": Door(
        evaluation.clustering, {"features": ROWS, "labels": LABELS},
        {"features": "rows", "labels": "labels", "k": "size or none", "iterations": "whole", "restarts": "size"},
    ),
    "sas_subset": Door(
        evaluation.sas_subset, {"z": ROWS, "classes": LABELS, "share": 0.5},
        {"classes": "whole labels or none", "share": "positive share", "redundancy": "weight"},
    ),
    "invariance_scores": Door(
        evaluation.invariance_scores, {"features": TOKENS},
        {"features": "tokens", "top": "size", "firing": "positive share"},
    ),
    "ssl_memorization": Door(
        evaluation.ssl_memorization,
        {"encoders_with": [resnet_small()], "encoders_without": [resnet_small()], "views": [IMAGES, IMAGES]},
        {"encoders_with": "list of modules", "encoders_without": "list of modules", "views": "some views"},
    ),
    "rotation_probe": Door(
        evaluation.rotation_probe, {"backbone": resnet_small(), "images": IMAGES, "test_images": IMAGES},
        {"images": "squares", "test_images": "squares"},
    ),
    **{
        name: Door(
            getattr(evaluation, name),
            {first: resnet_small(), "inputs": IMAGES, "labels": LABELS, "test_inputs": IMAGES, "test_labels": LABELS,
             "shots": 2, "draws": 1},
            {first: "module", "inputs": "encoded", "labels": "labels", "test_inputs": "encoded",
             "test_labels": "labels", "shots": "size or none", "draws": "size", "layers": "layers or none",
             "pool": "function", "epochs": "size", "lr": "positive", "batch_size": "size"},
        )
        for name, first in (("fine_tune", "backbone"), ("per_layer", "encoder"))
    },
    "search_augmentations": Door(
        evaluation.search_augmentations, {"evaluate": lambda x: x, "settings": {"x": (1, 2)}},
        {"evaluate": "function", "settings": "settings", "trials": "size", "seed": "whole"},
    ),
    "nearest": Door(
        evaluation.nearest, {"features": ROWS, "queries": ROWS, "k": 2},
        {"features": "rows", "queries": "rows", "k": "size"},
    ),
    "encode": Door(evaluation.encode, {"backbone": resnet_small(), "inputs": IMAGES}, {"inputs": "encoded"}),
    "calibrate_batchnorm": Door(
        evaluation.calibrate_batchnorm, {"backbone": resnet_small(), "inputs": IMAGES}, {"inputs": "encoded"},
    ),
    "feature_spread": Door(evaluation.feature_spread, {"features": ROWS}, {"features": "rows"}),
}  # fmt: skip


def walk() -> Iterator[Any]:
    for name, door in DOORS.items():
        for argument in inspect.signature(door.signature or door.call).parameters:
            if argument == "self":
                continue
            kind = door.kinds.get(argument) or OF_NAME.get(argument)
            yield pytest.param(name, argument, kind, id=f"{name}-{argument}")


@pytest.mark.parametrize("name, argument, kind", list(walk()))
def test_every_wrong_value_of_every_argument_gets_a_sentence(name: str, argument: str, kind: str | None) -> None:
    door = DOORS[name]
    assert kind is not None, f"{name}: what is {argument}? Give it a kind."
    wrong = []
    for case, value in KINDS[kind].items():
        arguments = {
            key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in door.good.items()
        }
        try:
            door.call(**{**arguments, argument: value})
        except (TypeError, ValueError, IndexError) as error:
            sentence = str(error)
            begins = sentence.startswith(f"{door.says or name.removesuffix('()')}:")
            if not begins and not re.match(r"(backend|group|index)\b", sentence):
                wrong.append(f"{case}: does not begin with the function: {sentence}")
            elif not re.search(rf"\b{argument}\b", sentence) and not isinstance(error, IndexError):
                wrong.append(f"{case}: does not name {argument}: {sentence}")
            elif "\n" in sentence or len(sentence) > 400 or sentence[-1] not in ".?":
                wrong.append(f"{case}: is not one sentence: {sentence!r}")
        except Exception as error:
            wrong.append(f"{case}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        else:
            wrong.append(f"{case}: taken in silence")
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", list(DOORS))
def test_the_good_call_is_good(name: str) -> None:
    """Otherwise its errors would be about something else."""
    DOORS[name].call(**DOORS[name].good)


def test_every_public_name_has_its_door() -> None:
    public = {
        *SF.__all__,
        *losses.__all__,
        *(set(methods.__all__) - {"METHODS", "Method", "available"}),
        *models.__all__,
    }
    public |= {"Center", "MemoryBank", "MemoryQueue", "update_momentum", "use_backend"}
    assert public <= set(DOORS)
