# SPDX-License-Identifier: Apache-2.0
"""The doors of methods and their terms: constructors, and under a name with () what a method does with views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from doors import Door
from torch import nn
from wrong_values import IMAGES, LABELS

from sslkernels import methods, terms
from sslkernels.methods.method import Masked
from sslkernels.models import SpectrogramNet, TokenTransformer, ViT, resnet_small
from sslkernels.models.volume import VolumeNet
from sslkernels.settings import arguments_of

METHOD_DOORS: dict[str, Door] = {}
VIEWS = {None: "some views", 1: "view", 2: "views", 3: "three views", 4: "four views"}
# A run takes these from the data, and knows the others of each sample.
TOKENS = {"backbone": ViT((8, 8), 2, width=32, depth=1, class_token=True, mask_token=True), "feature_dim": 32}
FILLED = {
    "IBOT": TOKENS,
    "DINOv2": TOKENS,
    "DIET": {"samples": 9},
    "DeepClusterV2": {"samples": 40},
    "SliceCluster": {"samples": 40, "encoders": {"volume": VolumeNet(1, (4, 8))}},
    "SSTerrain": {"samples": 40, "encoders": {"speech": SpectrogramNet((4, 8))}},
    "CADINO": {"samples": 40},
    "DLGLC": {"samples": 40},
    "PAL": {"samples": 9},
    "PIRL": {"samples": 40},
    "MarginClassifier": {"classes": 3},
    "FeatEx": {"classes": 3},
    "ColloSSL": {"backbone": nn.Flatten(), "feature_dim": 24},
    "CLIP": {"encoders": {"text": TokenTransformer(9, 4, width=16)}},
    "UVC": {"backbone": resnet_small(3)},
    "CrIBo": {**TOKENS, "queue_size": 40, "clusters": 4},
    "Mugs": {**TOKENS, "queue_size": 40},
    "MOKD": {**TOKENS, "search_depth": 1},
    **dict.fromkeys(("MSN", "PMSN"), {"backbone": ViT((8, 8), 2, width=32, depth=1), "feature_dim": 32}),
}
KNOWN = {
    "SIE": {"action": torch.ones(len(IMAGES), 4)},
    "PIRL": {"index": torch.arange(len(IMAGES))},
    "DIET": {"index": LABELS},
    "DeepClusterV2": {"index": LABELS},
    "SliceCluster": {"index": LABELS, "volume": torch.rand(len(IMAGES), 1, 3, 8, 8)},
    "SSTerrain": {"index": LABELS, "speech": torch.rand(len(IMAGES), 1, 16, 24)},
    "CADINO": {"index": LABELS},
    "DLGLC": {"index": LABELS},
    "CLIP": {"text": torch.ones(len(IMAGES), 4, dtype=torch.int64)},
    "PAL": {"index": LABELS, "label": LABELS},
}
KNOWN |= dict.fromkeys(("FeatEx", "MarginClassifier", "SupCon"), {"label": LABELS})
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
         "instance_temperature": "temperature", "projector_dim": "counted", "positives": "size", "neighbours": "size",
         "concentration": "weight", "orthogonality": "weight", "clusterings": "counted", "warmup": "share",
         "center_momentum": "share", "stages": "size", "second": "module or none", "search_depth": "size",
         "cross_weight": "weight", "exponent": "number",
         "freeze": "share", "last": "choice", "final_momentum": "share", "batch_norm": "flag",
         "teacher_temperature": "range", "epsilon": "positive",
         "iterations": "size", "queue_from": "size or zero", "sharpen": "positive", "me_max": "weight",
         "sinkhorn": "flag", "shared_head": "flag", "mask_probability": "positive share", "centering": "choice",
         "mask_shape": "choice", "patch_head": "some sizes", "koleo": "weight", "gram": "weight",
         "gram_from": "share", "gram_every": "size", "predicted": "positive share", "clusters": "counted",
         "cluster_from": "size or zero", "cosine": "weight", "tail": "weight", "prior": "weight", "rebalance": "weight",
         "share_momentum": "share", "swap": "share", "confidence": "share",
         "agreement": "weight", "masked": "weight", "hidden": "share", "told": "weight"}
        | dict.fromkeys(("decoder_width", "decoder_depth", "predictor_width", "predictor_depth"), "counted")
        | {"backbone": "vit" if kind.encoder == "tokens" else "module", "views": VIEWS[kind.views]}
        | ({"queue_size": "size or zero"} if kind is methods.SwAV else {})
        | ({"mask_ratio": "range"} if issubclass(kind, methods.IBOT) else {})
        | ({"teacher_temperature": "temperature"} if kind is methods.CAPI else {})
        | ({"clusters": "size"} if kind is methods.CrIBo else {}),
    )
    for kind in methods.METHODS.values()
}  # fmt: skip
SMALL = {"projection_dim": 8, "projector_dim": 8, "hidden_dim": 8, "queue_size": 32, "prototypes": 4}


def method_of(name: str) -> Any:
    kind, good = getattr(methods, name), METHODS[name][0]
    return kind(**{key: value for key, value in SMALL.items() if key in arguments_of(kind)} | good)


def views_of(name: str) -> Callable[..., Any]:
    return lambda views: method_of(name)(views, **KNOWN.get(name, {}))


OTHER_VIEWS = {"ColloSSL": torch.rand(4, 3, 8), "UVC": torch.rand(4, 3, 8, 8)}
for name, (good, kinds) in METHODS.items():
    METHOD_DOORS[name] = Door(getattr(methods, name), good, {key: kinds[key] for key in kinds if key != "views"})
    seen = OTHER_VIEWS.get(name, IMAGES)
    METHOD_DOORS[f"{name}()"] = Door(
        views_of(name), {"views": [seen] * (getattr(methods, name).views or 2)}, {"views": kinds["views"]}, says=name
    )

METHOD_DOORS["Auxiliary"] = Door(
    methods.Auxiliary, {"method": method_of("SimCLR"), "term": terms.Rotation(128)},
    {"method": "module", "term": "module", "weight": "weight"},
)  # fmt: skip
TERMS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    **{name: ({}, {}) for name in ("Agreement", "Rotation", "Reversal", "Permutation", "Warp", "Trajectory")},
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
    METHOD_DOORS[name] = Door(getattr(terms, name), {"feature_dim": 8, **good}, kinds)
