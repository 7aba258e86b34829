# SPDX-License-Identifier: Apache-2.0
"""Evaluates frozen features: probes with labels, measures of spread, rank and dependence without, and all at once."""

from __future__ import annotations

from sslkernels.evaluation.collapse import collapse_warning, feature_spread
from sslkernels.evaluation.dependence import cca, conditional_independence
from sslkernels.evaluation.energy import hyperspherical_energy, layer_energies
from sslkernels.evaluation.features import calibrate_batchnorm, encode, evaluated
from sslkernels.evaluation.information import coding_rate, matrix_entropy, mutual_information_bound
from sslkernels.evaluation.measures import MEASURES, Measure
from sslkernels.evaluation.probes import few_shot, knn, linear_probe, nearest
from sslkernels.evaluation.report import report
from sslkernels.evaluation.spectrum import alpha_req, rank_me, spectrum
from sslkernels.evaluation.views import augmentation_covariance, lidar
from sslkernels.functional import alignment, uniformity

__all__ = [
    "MEASURES",
    "Measure",
    "alignment",
    "alpha_req",
    "augmentation_covariance",
    "calibrate_batchnorm",
    "cca",
    "coding_rate",
    "collapse_warning",
    "conditional_independence",
    "encode",
    "evaluated",
    "feature_spread",
    "few_shot",
    "hyperspherical_energy",
    "knn",
    "layer_energies",
    "lidar",
    "linear_probe",
    "matrix_entropy",
    "mutual_information_bound",
    "nearest",
    "rank_me",
    "report",
    "spectrum",
    "uniformity",
]
