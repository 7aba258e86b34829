# SPDX-License-Identifier: Apache-2.0
"""The parts that text and interactions share: both are sequences of numbers, with 0 as padding."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.data import Dataset, Inputs
from sslkernels.models import TokenTransformer

# The frequent numbers, those just above padding, are counted; readers number words and items by their frequency.
COUNTED = 512


def transformer(dataset: Dataset, *, width: int = 64, depth: int = 1, heads: int = 4) -> TokenTransformer:
    largest = max(int(inputs.max()) for inputs in (dataset.inputs, dataset.test_inputs))
    return TokenTransformer(largest + 1, dataset.inputs.shape[1], width=width, depth=depth, heads=heads)


def counts(inputs: Inputs) -> Tensor:
    """How often each of the most frequent words or items stands in a sequence."""
    tokens = inputs[:]
    one = torch.ones((), dtype=torch.float32).expand(tokens.shape)
    counted = torch.zeros(len(tokens), COUNTED + 1).scatter_add_(1, tokens.clamp(max=COUNTED), one)
    return counted[:, 1:]
