# SPDX-License-Identifier: Apache-2.0
"""Features ``(N, F)`` that nobody has learned, of samples of each modality: the floor of a report."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.data.dataset import Inputs
from sslkernels.data.pictures import Pictures

MOST_PIXELS = 32
# The frequent numbers, those just above padding, are counted; readers number words and items by their frequency.
COUNTED = 512


def pixels(inputs: Inputs) -> Tensor:
    """The pixels of images, averaged to at most `MOST_PIXELS` a side."""
    if isinstance(inputs, Pictures):
        return torch.cat([_averaged(batch) for batch in inputs.batches(256)])
    return _averaged(inputs[:])


def _averaged(images: Tensor) -> Tensor:
    height, width = (min(side, MOST_PIXELS) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(images, (height, width)).flatten(1)


def bands(inputs: Inputs) -> Tensor:
    """Mean and deviation of each band of a sound over time, which do not depend on where it begins."""
    return channels(inputs[:].flatten(1, 2))


def channels(inputs: Inputs) -> Tensor:
    """Mean and deviation of each channel of a series: on the wrist sensor they are worth more than its numbers."""
    series = inputs[:]
    return torch.cat([series.mean(2), series.std(2, correction=0)], 1)


def counts(inputs: Inputs) -> Tensor:
    """How often each of the most frequent words or items stands in a sequence."""
    tokens = inputs[:]
    one = torch.ones((), dtype=torch.float32).expand(tokens.shape)
    counted = torch.zeros(len(tokens), COUNTED + 1).scatter_add_(1, tokens.clamp(max=COUNTED), one)
    return counted[:, 1:]


def totals(inputs: Inputs) -> Tensor:
    """The sum of the features of a graph's nodes, its nodes, and its edges: counts, where features are kinds."""
    graphs = inputs[:]
    edges = torch.bincount(graphs.batch[graphs.edge_index[0]], minlength=len(graphs))
    nodes = torch.bincount(graphs.batch, minlength=len(graphs))
    sums = graphs.x.new_zeros(len(graphs), graphs.x.shape[1]).index_add(0, graphs.batch, graphs.x)
    return torch.cat([sums, nodes[:, None], edges[:, None]], 1)


def numbers(inputs: Inputs) -> Tensor:
    """The numbers of a table."""
    return inputs[:]


RAW = {
    "images": pixels,
    "series": channels,
    "audio": bands,
    "tables": numbers,
    "graphs": totals,
    "interactions": counts,
    "text": counts,
}
