# SPDX-License-Identifier: Apache-2.0
"""Evaluates frozen features: probes with labels, measures of spread, rank and dependence without, and all at once."""

from __future__ import annotations

from sslkernels.data.sas import sas_subset
from sslkernels.evaluation.clusters import Clustering, clustering
from sslkernels.evaluation.collapse import collapse_warning, feature_spread, targets_warning
from sslkernels.evaluation.dependence import cca, conditional_independence
from sslkernels.evaluation.energy import hyperspherical_energy, layer_energies
from sslkernels.evaluation.features import calibrate_batchnorm, encode, evaluated
from sslkernels.evaluation.information import coding_rate, matrix_entropy, mutual_information_bound
from sslkernels.evaluation.invariance import Invariance, invariance_scores
from sslkernels.evaluation.layers import PerLayer, per_layer
from sslkernels.evaluation.linear import linear_svm
from sslkernels.evaluation.measures import MEASURES, Measure
from sslkernels.evaluation.memorization import Memorization, ssl_memorization
from sslkernels.evaluation.monitor import gradient_norms, layer_covariances
from sslkernels.evaluation.neighbours import weighted_knn
from sslkernels.evaluation.probes import few_shot, knn, linear_probe, nearest
from sslkernels.evaluation.rationality import RRM, rrm
from sslkernels.evaluation.report import report
from sslkernels.evaluation.risk import Risk, risk_decomposition
from sslkernels.evaluation.rotation import rotation_probe
from sslkernels.evaluation.search import Search, search_augmentations
from sslkernels.evaluation.spectrum import alpha_req, rank_me, spectrum
from sslkernels.evaluation.tuning import fine_tune
from sslkernels.evaluation.views import augmentation_covariance, lidar
from sslkernels.functional import alignment, uniformity

__all__ = [
    "MEASURES",
    "RRM",
    "Clustering",
    "Invariance",
    "Measure",
    "Memorization",
    "PerLayer",
    "Risk",
    "Search",
    "alignment",
    "alpha_req",
    "augmentation_covariance",
    "calibrate_batchnorm",
    "cca",
    "clustering",
    "coding_rate",
    "collapse_warning",
    "conditional_independence",
    "encode",
    "evaluated",
    "feature_spread",
    "few_shot",
    "fine_tune",
    "gradient_norms",
    "hyperspherical_energy",
    "invariance_scores",
    "knn",
    "layer_covariances",
    "layer_energies",
    "lidar",
    "linear_probe",
    "linear_svm",
    "matrix_entropy",
    "mutual_information_bound",
    "nearest",
    "per_layer",
    "rank_me",
    "report",
    "risk_decomposition",
    "rotation_probe",
    "rrm",
    "sas_subset",
    "search_augmentations",
    "spectrum",
    "ssl_memorization",
    "targets_warning",
    "uniformity",
    "weighted_knn",
]
