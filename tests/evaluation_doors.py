# SPDX-License-Identifier: Apache-2.0
"""The doors of what evaluates encoders and their features."""

from __future__ import annotations

from doors import Door
from wrong_values import IMAGES, LABELS, ROWS, TOKENS

from sslkernels import evaluation
from sslkernels.models import resnet_small

EVALUATION_DOORS: dict[str, Door] = {
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
    "layer_covariances": Door(
        evaluation.layer_covariances, {"encoder": resnet_small(), "views": [IMAGES, IMAGES]},
        {"encoder": "module", "views": "some views", "layers": "layers or none", "pool": "function"},
    ),
    "gradient_norms": Door(evaluation.gradient_norms, {"module": resnet_small()}, {"module": "module"}),
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
