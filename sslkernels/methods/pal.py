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
from sslkernels.functional import cross_correlation_sq, sup_con
from sslkernels.functional.labelled import check_labels
from sslkernels.functional.similarity import sharded
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.dtypes import stacked, widened
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.ops.similarity.labelled import class_sums

BASES = ("simclr", "vicreg", "barlow")


class PAL(Method):
    """Active Self-Supervised Learning: A Few Low-Cost Relationships Are All You Need. Cabannes et al., ICCV 2023.

    The rows z of all views are the nodes of a graph with weights G. Views of one sample are neighbours, and so are
    views of samples with one label, where labels are known. Each base is a loss of the graph:

    - ``simclr``: ``Σ_ij G_ij · (log Σ_(k≠i) e^s_ik − s_ij) / N``, with cosines over the temperature: `sup_con`
    - ``vicreg``: ``|ZZᵀ − G|² / N``, where a row is its own neighbour too
    - ``barlow``: ``|ẐᵀGẐ − I|²``, where each column of Ẑ is centred and has length 1

    This follows the paper's three losses, which nobody here could check to the letter. Ours are the weights, 1 for
    ``vicreg`` and one over the number of neighbours for the others; the division by N; and which labels are known:
    those of a ``share`` of the samples, drawn once.

    Rows with one label are all neighbours, so that sums over neighbours are sums of classes: no list of pairs is made.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, and width of the projection's hidden layer.
        samples: number of training samples, whose ``index`` runs from 0 to ``samples - 1``.
        base: ``"simclr"``, ``"vicreg"`` or ``"barlow"``.
        share: share of the samples whose label is known; with 0 the views are the only pairs, as in the base.
        projection_dim: width of the rows.
        temperature: temperature of ``simclr``.
        backend: see `Method`.
        group: ranks whose rows are in the graph too. With ``vicreg`` and ``barlow`` each rank computes the whole loss.

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
        alone = -1 - shard.start - torch.arange(len(label), device=label.device)
        label = torch.where(label < 0, alone, label)
        if self.base == "simclr":
            z = stacked(z0, z1)
            return sup_con(z, label.repeat(2), temperature=self.temperature, group=self.group, backend=self.backend)
        z = widened(stacked(gather_rows(z0, shard), gather_rows(z1, shard)))
        label = all_rows(label, shard).repeat(2)
        return gram(z, label, self.backend) if self.base == "vicreg" else correlation(z, label, self.backend)


def gram(z: Tensor, label: Tensor, backend: str | None = None) -> Tensor:
    """Compute ``|ZZᵀ − G|² / N`` for rows ``(N, D)``, where G joins each row to those with its label ``(N,)``.

    ``|ZZᵀ|² − 2 Σ_ij G_ij ⟨z_i, z_j⟩ + |G|²``, and a row's products with those of its label are one with their sum.
    """
    _, total = cross_correlation_sq(z, z, backend=backend)
    pulls, pairs = (z * class_sums(z, label)).sum(), class_sums(torch.ones_like(z[:, :1]), label).sum()
    return (total - 2 * pulls + pairs) / len(z)


def correlation(z: Tensor, label: Tensor, backend: str | None = None) -> Tensor:
    """Compute ``|ẐᵀGẐ − I|²``: row i of GẐ is the mean of the others with label i. Columns of Ẑ have length 1."""
    unit = F.normalize(z - z.mean(0), dim=0)
    others = class_sums(torch.ones_like(z[:, :1]), label) - 1
    diagonal, total = cross_correlation_sq(unit, (class_sums(unit, label) - unit) / others, backend=backend)
    return total - 2 * diagonal.sum() + unit.shape[1]
