# SPDX-License-Identifier: Apache-2.0
"""PAL: contrast rows along a graph of positive pairs: views of one sample, and samples of which people said so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_choice, check_count, check_number, check_temperature, check_widths
from sslkernels.distributed import GroupLike, all_rows, gather_rows
from sslkernels.functional import cross_correlation_sq, gather_similarity, graph_nt_xent
from sslkernels.functional.labelled import check_labels
from sslkernels.functional.similarity import sharded
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.dtypes import stacked, widened
from sslkernels.ops.similarity import SIMILARITY

BASES = ("simclr", "vicreg", "barlow")


class PAL(Method):
    """Active Self-Supervised Learning: A Few Low-Cost Relationships Are All You Need. Cabannes et al., ICCV 2023.

    The rows z of all views are the nodes of a graph with weights G. Views of one sample are neighbours, and so are
    views of samples with one label, where labels are known. Each base is a loss of the graph:

    - ``simclr``: ``Σ_ij G_ij · (log Σ_(k≠i) e^s_ik − s_ij) / N``, with cosines over the temperature
    - ``vicreg``: ``|ZZᵀ − G|² / N``, where a row is its own neighbour too
    - ``barlow``: ``|ẐᵀGẐ − I|²``, where each column of Ẑ is centred and has length 1

    This follows the paper's three losses, which nobody here could check to the letter. Ours are the weights, 1 for
    ``vicreg`` and one over the number of neighbours for the others; the division by N; and which labels are known:
    those of a ``share`` of the samples, drawn once.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        samples: number of training samples, whose ``index`` runs from 0 to ``samples - 1``.
        base: ``"simclr"``, ``"vicreg"`` or ``"barlow"``.
        share: share of the samples whose label is known; with 0 the views are the only pairs, as in the base.
        projection_dim: width of the rows.
        temperature: temperature of ``simclr``.
        backend: see `Method`.
        group: ranks whose rows are in the graph too. Each rank computes the loss of the whole graph.

    >>> import torch
    >>> from sslkernels.methods import PAL
    >>> from sslkernels.models import resnet_small
    >>> method = PAL(resnet_small(), feature_dim=128, samples=1000)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views, index=torch.arange(16), label=torch.arange(16) % 3)["loss"].shape
    torch.Size([])
    """

    paper = "Cabannes et al. 2023"
    arxiv = "2303.15256"
    seeds = (13,)
    after_abstract = True
    family = SIMILARITY
    needs = ("index", "label")
    small = {"epochs": 40, "batch_size": 256, "lr": 3e-3, "projection_dim": 128, "temperature": 0.5}
    paper_options = {"epochs": 100, "batch_size": 256, "lr": 1e-3}
    known: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        samples: int,
        base: Literal["simclr", "vicreg", "barlow"] = "simclr",
        share: float = 0.1,
        projection_dim: int = 128,
        temperature: float = 0.1,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths("PAL", feature_dim=feature_dim, projection_dim=projection_dim)
        samples = check_count("PAL", "samples", samples, 1)
        self.base = check_choice("PAL", "base", base, BASES)
        share = check_number("PAL", "share", share, least=0.0, most=1.0)
        self.temperature = check_temperature("PAL", temperature)
        self.projector = ProjectionHead(feature_dim, feature_dim, projection_dim)
        # All ranks know the same labels, whatever the seed of each.
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(0))
        self.register_buffer("known", torch.zeros(samples, dtype=torch.bool))
        self.known[order[: round(share * samples)]] = True

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        index, label = (check_labels("PAL", name, value, z0) for name, value in self.needed(given).items())
        embeddings = z0, z1, torch.where(self.known[index], label, -1)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, z0: Tensor, z1: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the loss of rows whose label is -1 where nobody knows it."""
        shard = sharded(self.group, "PAL", z0, z1, base=self.base, temperature=self.temperature)
        z = stacked(gather_rows(z0, shard), gather_rows(z1, shard))
        positive = neighbours(all_rows(label, shard))
        weight = (positive >= 0).to(widened(z).dtype)
        if self.base == "vicreg":
            own = torch.arange(len(z), device=z.device)[:, None]
            return graph_gram(z, torch.cat([own, positive], 1), F.pad(weight, (1, 0), value=1.0), self.backend)
        weight = weight / weight.sum(1, keepdim=True)
        if self.base == "barlow":
            return graph_correlation(z, positive, weight, self.backend)
        return graph_nt_xent(z, positive, weight, temperature=self.temperature, backend=self.backend)


def neighbours(label: Tensor) -> Tensor:
    """List the neighbours of each of two views of samples, ``(2N, P)``, those of the first view first; -1 is none."""
    alone = -1 - torch.arange(len(label), device=label.device)
    of = torch.where(label < 0, alone, label).repeat(2)
    joined = (of[:, None] == of).fill_diagonal_(False)
    row, column = joined.nonzero(as_tuple=True)
    count = joined.sum(1)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    positive = torch.full((len(of), int(count.max())), -1, device=of.device)
    positive[row, place] = column
    return positive


def graph_gram(z: Tensor, positive: Tensor, weight: Tensor, backend: str | None = None) -> Tensor:
    """Compute ``|ZZᵀ − G|² / N`` for rows ``(N, D)`` and a graph of ``weight`` ``(N, P)`` at distinct ``positive``.

    ``|ZZᵀ|² − 2 Σ_ij G_ij ⟨z_i, z_j⟩ + |G|²``: no product of pairs without a weight is stored.
    """
    _, total = cross_correlation_sq(z, z, backend=backend)
    pulls = gather_similarity(z, z, positive, backend=backend).masked_fill(positive < 0, 0)
    return (total - 2 * (weight * pulls).sum() + weight.square().sum()) / len(z)


def graph_correlation(z: Tensor, positive: Tensor, weight: Tensor, backend: str | None = None) -> Tensor:
    """Compute ``|ẐᵀGẐ − I|²``; see `graph_gram`. Columns of Ẑ are centred and of length 1."""
    z = widened(z)
    unit = F.normalize(z - z.mean(0), dim=0)
    means = F.embedding_bag(positive.clamp_min(0), unit, per_sample_weights=weight, mode="sum")
    diagonal, total = cross_correlation_sq(unit, means, backend=backend)
    return total - 2 * diagonal.sum() + unit.shape[1]
