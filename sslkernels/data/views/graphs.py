# SPDX-License-Identifier: Apache-2.0
"""Random views of graphs."""

from __future__ import annotations

import torch

from sslkernels.arguments import check_kind, check_number
from sslkernels.data.graphs import Graphs
from sslkernels.data.views.drawn import Drawn


class GraphViews(Drawn):
    """Map graphs to ``count`` views: some nodes lose their features, and some edges are left out in both directions.

    Nodes stay where they are (GraphCL, You et al. 2020, attribute masking and edge perturbation).

    Args:
        count: number of views.
        dropped: probability of each node to lose its features, and of each edge to be left out.

    >>> import torch
    >>> from sslkernels.data import Graphs, GraphViews
    >>> pair = Graphs(torch.ones(2, 3), torch.tensor([[0, 1], [1, 0]]), torch.zeros(2, dtype=torch.int64), 1)
    >>> first, second = GraphViews()(pair)
    >>> first.x.shape
    torch.Size([2, 3])
    """

    def __init__(self, count: int = 2, dropped: float = 0.15) -> None:
        super().__init__(count)
        self.dropped = check_number("GraphViews", "dropped", dropped, least=0, most=1)

    def draw(self, batch: Graphs) -> Graphs:
        check_kind("GraphViews", "batch", batch, Graphs, "a sslkernels.data.Graphs")
        kept_nodes = torch.rand(len(batch.x), 1, device=batch.x.device) >= self.dropped
        # An edge and its reverse share a number, and so their fate.
        low, high = batch.edge_index.sort(0).values
        pairs = low * len(batch.x) + high
        _, place = pairs.unique(return_inverse=True)
        fate = torch.rand(int(place.max()) + 1 if len(place) else 0, device=batch.x.device) >= self.dropped
        return Graphs(batch.x * kept_nodes, batch.edge_index[:, fate[place]], batch.batch, batch.count)
