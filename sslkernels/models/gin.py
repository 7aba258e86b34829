# SPDX-License-Identifier: Apache-2.0
"""A graph isomorphism network (Xu et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_size
from sslkernels.data import Graphs


class GIN(nn.Module):
    """Map graphs to features ``(count, 2 * width)``: mean and sum over the nodes, the sum in units of its logarithm.

    A layer adds the neighbours' rows to a node's own, and a perceptron follows. The order of nodes and edges plays no
    part.

    Args:
        in_features: features of a node.
        width: features of a layer.
        depth: number of layers, and so of the steps that a node sees away.

    >>> import torch
    >>> from sslkernels.data import Graphs
    >>> from sslkernels.models import GIN
    >>> triangle = torch.tensor([[0, 1, 1, 2, 2, 0], [1, 0, 2, 1, 0, 2]])
    >>> GIN(4)(Graphs(torch.rand(3, 4), triangle, torch.zeros(3, dtype=torch.int64), 1)).shape
    torch.Size([1, 128])
    """

    def __init__(self, in_features: int, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        width, depth = check_count("GIN", "width", width, width), check_size("GIN", "depth", depth)
        in_features = check_count("GIN", "in_features", in_features, width)
        self.feature_dim = 2 * width
        self.embed = nn.Linear(in_features, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            for _ in range(depth)
        )

    def forward(self, graphs: Graphs) -> Tensor:
        source, target = graphs.edge_index
        x = self.embed(graphs.x)
        for layer in self.layers:
            x = x + layer(x.index_add(0, target, x[source]))
        total = x.new_zeros(len(graphs), x.shape[1]).index_add(0, graphs.batch, x)
        nodes = torch.bincount(graphs.batch, minlength=len(graphs))[:, None].clamp(min=1)
        return torch.cat([total / nodes, total.sign() * total.abs().log1p()], 1)
