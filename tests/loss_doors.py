# SPDX-License-Identifier: Apache-2.0
"""The doors of losses: their constructors, and under a name with () their calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from doors import LABELS4, Door
from wrong_values import ROWS, TOKENS

from sslkernels import losses
from sslkernels.losses import metric_learning
from sslkernels.losses.info_nce import InfoNCE

LOSS_DOORS: dict[str, Door] = {}
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
    "PMSNCustomLoss": (
        {"temperature": "positive", "sinkhorn_iterations": "whole", "regularization_weight": "weight",
         "target_distribution": "function"},
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
    "PMSNCustomLoss": {"target_distribution": lambda mean: torch.full_like(mean, 1 / len(mean))},
}


def build(name: str) -> Callable[..., Any]:
    return lambda **options: getattr(losses, name)(**options)


def apply(name: str) -> Callable[..., Any]:
    return lambda **arguments: getattr(losses, name)(**REQUIRED.get(name, {}))(**arguments)


for name, (of_constructor, good, of_call) in LOSSES.items():
    kind = getattr(losses, name)
    LOSS_DOORS[name] = Door(build(name), REQUIRED.get(name, {}), of_constructor, signature=kind.__init__)
    LOSS_DOORS[f"{name}()"] = Door(apply(name), good, of_call, says=name, signature=kind.forward)

PAIR_LOSS = {"distance": "absent", "reducer": "absent", "embedding_regularizer": "absent"}
COMPARED = {
    "embeddings": "rows", "labels": "whole labels or none", "indices_tuple": "pairs or none",
    "ref_emb": "rows or none", "ref_labels": "whole labels or none",
}  # fmt: skip
for kind in (metric_learning.NTXentLoss, metric_learning.SupConLoss):
    name = f"metric_learning.{kind.__name__}"
    LOSS_DOORS[name] = Door(kind, {}, PAIR_LOSS, says=kind.__name__, signature=metric_learning.PairLoss.__init__)
    LOSS_DOORS[f"{name}()"] = Door(
        kind(), {"embeddings": ROWS, "labels": LABELS4, "ref_emb": ROWS, "ref_labels": LABELS4}, COMPARED,
        says=kind.__name__, signature=kind.forward,
    )  # fmt: skip
LOSS_DOORS |= {
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
