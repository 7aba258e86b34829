# SPDX-License-Identifier: Apache-2.0
"""Several graphs as one: nodes, edges, and the graph that each node belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Graphs:
    """Graphs, under the names that PyTorch Geometric has for them.

    Nodes of a graph stand together, in the order of ``batch``; edges stand in any order, and both directions of an
    undirected edge are there.

    Args:
        x: features of all nodes, ``(nodes, F)``.
        edge_index: int64 ``(2, edges)``: from which node to which, in rows of ``x``.
        batch: int64 ``(nodes,)``: the number of each node's graph, never falling.
        count: how many graphs there are; it is the length, since the last ones may have no node.

    >>> import torch
    >>> from sslkernels.data import Graphs
    >>> edges = torch.tensor([[0, 1, 3, 4], [1, 0, 4, 3]])
    >>> graphs = Graphs(torch.eye(5), edges, torch.tensor([0, 0, 1, 2, 2]), 3)
    >>> len(graphs), graphs[[2]].edge_index
    (3, tensor([[0, 1],
            [1, 0]]))
    """

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Graphs:
        """Take the graphs of a slice, of a list or of a tensor of numbers, in its order and as often as they stand."""
        device = self.batch.device
        chosen = torch.arange(self.count, device=device)[rows]
        sizes, starts, order, edge_sizes, edge_starts = self._places
        nodes, batch = _ranges(starts[chosen], sizes[chosen])
        edges, owner = _ranges(edge_starts[chosen], edge_sizes[chosen])
        first = sizes[chosen].cumsum(0) - sizes[chosen]
        moved = self.edge_index[:, order[edges]] + (first - starts[chosen])[owner]
        return Graphs(self.x[nodes], moved, batch, len(chosen))

    @cached_property
    def _places(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Nodes of each graph and the first of them, an order of the edges by graph, and the same of the edges.

        Every batch needs them, and sorting the edges of a whole data set takes longer than the rest of it.
        """
        sizes = torch.bincount(self.batch, minlength=self.count)
        of_edge = self.batch[self.edge_index[0]]
        edge_sizes = torch.bincount(of_edge, minlength=self.count)
        return (
            sizes,
            sizes.cumsum(0) - sizes,
            of_edge.argsort(stable=True),
            edge_sizes,
            edge_sizes.cumsum(0) - edge_sizes,
        )

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, *arguments: Any, **options: Any) -> Graphs:
        """Move to a device as ``Tensor.to`` does; a dtype changes the nodes' features alone."""
        x = self.x.to(*arguments, **options)
        return Graphs(x, self.edge_index.to(x.device), self.batch.to(x.device), self.count)


def _ranges(starts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Join the ranges ``start .. start + size``; the second result says which range each number is of."""
    owner = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    within = torch.arange(len(owner), device=sizes.device) - (sizes.cumsum(0) - sizes)[owner]
    return starts[owner] + within, owner
