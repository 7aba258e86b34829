# SPDX-License-Identifier: Apache-2.0
"""Evaluates frozen features: few-shot nearest neighbour, linear probe, k nearest neighbours, spread."""

from __future__ import annotations

from sslkernels.data.sas import sas_subset
from sslkernels.evaluation.collapse import collapse_warning, feature_spread
from sslkernels.evaluation.features import calibrate_batchnorm, encode, evaluated
from sslkernels.evaluation.neighbours import weighted_knn
from sslkernels.evaluation.probes import few_shot, knn, linear_probe, nearest

__all__ = [
    "calibrate_batchnorm",
    "collapse_warning",
    "encode",
    "evaluated",
    "feature_spread",
    "few_shot",
    "knn",
    "linear_probe",
    "nearest",
    "sas_subset",
    "weighted_knn",
]
