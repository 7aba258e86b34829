# SPDX-License-Identifier: Apache-2.0
"""Brings the columns or channels of a data set to mean 0 and deviation 1, by its training samples."""

from __future__ import annotations

from dataclasses import replace

from sslkernels.data.dataset import Dataset


def standardised(dataset: Dataset) -> Dataset:
    """Standardise inputs ``(N, D)`` per column, or ``(N, C, T)`` per channel; a constant one becomes zeros."""
    train, dims = dataset.inputs.double(), [0, *range(2, dataset.inputs.dim())]
    mean, scale = train.mean(dims, keepdim=True), train.std(dims, correction=0, keepdim=True)
    scale[scale <= 1e-12 * mean.abs()] = 1
    scale[scale == 0] = 1
    inputs, test_inputs = (((rows - mean) / scale).float() for rows in (train, dataset.test_inputs.double()))
    return replace(dataset, inputs=inputs, test_inputs=test_inputs)
