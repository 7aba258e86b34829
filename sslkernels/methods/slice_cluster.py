# SPDX-License-Identifier: Apache-2.0
"""SliceCluster: slices tell their clusters, a volume tells the cluster of its slice, and slices tell hidden ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sslkernels.arguments import came, check_number, check_tensor, check_weights, shape_of
from sslkernels.distributed import shard_of
from sslkernels.functional import linear_cross_entropy
from sslkernels.methods.clip import check_encoders
from sslkernels.methods.deep_cluster_v2 import DeepClusterV2
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import unit_rows

FORM = "volume"
HEADS = 4


class SliceCluster(DeepClusterV2):
    """Joint Self-Supervised Image-Volume Representation Learning with Intra-Inter Contrastive Clustering. Nguyen et
    al., 2022.

    A sample is a slice, and the volume of slices around it is known. The loss is `DeepClusterV2`'s of two views of the
    slice, with its clusters y and their centroids c, and

        ``agreement * mean over clusterings of [log sum_k exp(<v, c_k> / temperature) - <v, c_y> / temperature]``
        ``masked * mean over hidden slices of |p - z|^2 / projection_dim``

    The first is the cross-entropy of the unit row v that a network of volumes gives: it tells the cluster of its slice.
    For the second a layer of attention predicts the unit rows z of a share of the volume's slices as p, from those of
    the others and from where all lie; z gets no gradient. This follows the paper's abstract: that the volume is given
    the slice's own cluster, the layer, the share and both weights are ours, and volumes are seen as they are.

    Args:
        backbone: slices ``(N, C, H, W)`` to features ``(N, feature_dim)``.
        encoders: ``{"volume": network}`` of volumes ``(N, C, D, H, W)``, with a ``feature_dim``.
        agreement, masked: weights of the two terms.
        hidden: share of a volume's slices to predict, at least one of them, and not all.
        feature_dim, samples, prototypes, clusterings, projection_dim, hidden_dim: as in `DeepClusterV2`.
        temperature, iterations, backend, group: as in `DeepClusterV2`. ``projection_dim`` is a multiple of 4.

    >>> import torch
    >>> from sslkernels.methods import SliceCluster
    >>> from sslkernels.models import resnet_small
    >>> from sslkernels.models.volume import VolumeNet
    >>> encoders = {"volume": VolumeNet(1, (8, 16))}
    >>> method = SliceCluster(resnet_small(), feature_dim=128, samples=64, prototypes=5, encoders=encoders)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views, index=torch.arange(16), volume=torch.rand(16, 1, 5, 8, 8))["loss"].shape
    torch.Size([])
    """

    paper = "Nguyen et al. 2022"
    arxiv = "2212.01893"
    seeds = (102,)
    after_abstract = True
    needs = ("index", FORM)
    small = {**DeepClusterV2.small, "epochs": 6, "batch_size": 64, "lr": 1e-3, "prototypes": 100}
    # These are DeepCluster-v2's: nobody here could look the paper's up.
    paper_options = DeepClusterV2.paper_options

    def __init__(
        self,
        backbone: nn.Module,
        *,
        encoders: dict[str, nn.Module],
        agreement: float = 1.0,
        masked: float = 1.0,
        hidden: float = 0.4,
        **options: Any,
    ) -> None:
        super().__init__(backbone, **options)
        encoders = check_encoders("SliceCluster", encoders)
        if set(encoders) != {FORM}:
            raise ValueError(f"SliceCluster: encoders has {came(sorted(encoders))}; pass one of 'volume' alone.")
        self.agreement, self.masked = check_weights("SliceCluster", agreement=agreement, masked=masked)
        self.hidden = check_number("SliceCluster", "hidden", hidden, least=0.0, most=1.0)
        _, dim = self.banks[0].rows.shape
        if dim % HEADS:
            raise ValueError(f"SliceCluster: projection_dim is {dim}; pass a multiple of {HEADS}.")
        self.encoders = nn.ModuleDict(encoders)
        solid = encoders[FORM].feature_dim
        self.solid_projector = ProjectionHead(solid, solid, dim)  # type: ignore[arg-type]
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.predictor = nn.Sequential(
            nn.TransformerEncoderLayer(dim, HEADS, 2 * dim, 0.0, batch_first=True), nn.Linear(dim, dim)
        )

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        clustered = self.embedded(views, **given)
        volume = check_tensor("SliceCluster", FORM, self.needed(given)[FORM], "(N, C, D, H, W)")
        if volume.dim() != 5 or len(volume) != len(clustered[0]) or volume.shape[2] < 2:
            raise ValueError(
                f"SliceCluster: volume has shape {shape_of(volume)}; expected ({len(clustered[0])}, C, D, H, W), one "
                "for each slice, of at least 2 slices."
            )
        solid = self.solid_projector(self.encoders[FORM](volume))
        slices = self.projector(self.features(volume.transpose(1, 2).flatten(0, 1)))
        (rows,) = unit_rows(slices, backend=self.backend).split(len(slices))
        embeddings = *clustered, solid, *self.predicted(rows.view(len(volume), -1, rows.shape[1]))
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def predicted(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Hide some of the slices ``(N, D, P)`` of each volume; give the rows predicted and hidden, ``(N, M, P)``."""
        volumes, depth, dim = rows.shape
        count = min(depth - 1, max(1, round(self.hidden * depth)))
        places = torch.rand(volumes, depth, device=rows.device).argsort(1)[:, :count]
        index = places[..., None].expand(-1, -1, dim)
        seen = rows.scatter(1, index, self.mask_token.to(rows.dtype).expand(volumes, count, dim))
        told = self.predictor(seen + positions(depth, dim, rows))
        return told.gather(1, index), rows.detach().gather(1, index)

    def loss(  # type: ignore[override]
        self, z0: Tensor, z1: Tensor, index: Tensor, solid: Tensor, predicted: Tensor, hidden: Tensor
    ) -> Tensor:
        shard = shard_of(self.group, "SliceCluster", solid)
        rows = unit_rows(solid, backend=self.backend)
        told = [
            linear_cross_entropy(
                rows, centroids.to(rows.dtype), own[index], scale=1 / self.temperature, reduction="sum",
                backend=self.backend,
            )
            for centroids, own in zip(self.clusters.prototypes, self.clusters.targets, strict=True)
        ]  # fmt: skip
        apart = (predicted - hidden).square().mean((1, 2)).sum()
        besides = self.agreement * torch.stack(told).mean() + self.masked * apart
        # Its mean over ranks is that of all rows.
        return super().loss(z0, z1, index) + besides * shard.ranks / shard.total(len(index))


def positions(depth: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of where each of ``depth`` slices lies, ``(depth, dim)`` (Vaswani et al. 2017)."""
    where = torch.arange(depth, device=like.device, dtype=like.dtype)[:, None]
    rate = torch.exp(torch.arange(0, dim, 2, device=like.device, dtype=like.dtype) * (-math.log(10_000.0) / dim))
    return torch.cat([torch.sin(where * rate), torch.cos(where * rate)], 1)
