# SPDX-License-Identifier: Apache-2.0
"""Evaluates frozen features: few-shot nearest neighbour, linear probe, k nearest neighbours, spread."""

from __future__ import annotations

from sslkernels.evaluation.collapse import collapse_warning, feature_spread
from sslkernels.evaluation.features import calibrate_batchnorm, encode, evaluated
from sslkernels.evaluation.measures import MEASURES, Measure
from sslkernels.evaluation.probes import few_shot, knn, linear_probe, nearest
from sslkernels.evaluation.report import report

__all__ = [
    "MEASURES",
    "Measure",
    "calibrate_batchnorm",
    "collapse_warning",
    "encode",
    "evaluated",
    "feature_spread",
    "few_shot",
    "knn",
    "linear_probe",
    "nearest",
    "report",
]
