# SPDX-License-Identifier: Apache-2.0
"""Evaluates frozen features: probes with labels, clusters, spread, and what an encoder knows by heart."""

from __future__ import annotations

from sslkernels.data.sas import sas_subset
from sslkernels.evaluation.clusters import Clustering, clustering
from sslkernels.evaluation.collapse import collapse_warning, feature_spread
from sslkernels.evaluation.features import calibrate_batchnorm, encode, evaluated
from sslkernels.evaluation.invariance import Invariance, invariance_scores
from sslkernels.evaluation.layers import PerLayer, per_layer
from sslkernels.evaluation.linear import linear_svm
from sslkernels.evaluation.memorization import Memorization, ssl_memorization
from sslkernels.evaluation.neighbours import weighted_knn
from sslkernels.evaluation.probes import few_shot, knn, linear_probe, nearest
from sslkernels.evaluation.rationality import RRM, rrm
from sslkernels.evaluation.risk import Risk, risk_decomposition
from sslkernels.evaluation.rotation import rotation_probe
from sslkernels.evaluation.search import Search, search_augmentations
from sslkernels.evaluation.tuning import fine_tune

__all__ = [
    "RRM",
    "Clustering",
    "Invariance",
    "Memorization",
    "PerLayer",
    "Risk",
    "Search",
    "calibrate_batchnorm",
    "clustering",
    "collapse_warning",
    "encode",
    "evaluated",
    "feature_spread",
    "few_shot",
    "fine_tune",
    "invariance_scores",
    "knn",
    "linear_probe",
    "linear_svm",
    "nearest",
    "per_layer",
    "risk_decomposition",
    "rotation_probe",
    "rrm",
    "sas_subset",
    "search_augmentations",
    "ssl_memorization",
    "weighted_knn",
]
