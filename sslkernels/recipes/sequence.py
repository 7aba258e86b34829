# SPDX-License-Identifier: Apache-2.0
"""The parts that text and interactions share: both are sequences of numbers, with 0 as padding."""

from __future__ import annotations

from sslkernels.data import Dataset
from sslkernels.models import TokenTransformer


def transformer(dataset: Dataset, *, width: int = 64, depth: int = 1, heads: int = 4) -> TokenTransformer:
    largest = max(int(inputs.max()) for inputs in (dataset.inputs, dataset.test_inputs))
    return TokenTransformer(largest + 1, dataset.inputs.shape[1], width=width, depth=depth, heads=heads)
