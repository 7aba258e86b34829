# SPDX-License-Identifier: Apache-2.0
"""Evaluates frozen features: few-shot nearest neighbour, linear probe, k nearest neighbours, spread."""

from __future__ import annotations

from sslkernels.evaluation.collapse import collapse_warning, feature_spread, targets_warning
from sslkernels.evaluation.features import calibrate_batchnorm, encode, evaluated
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
    "targets_warning",
]
