# SPDX-License-Identifier: Apache-2.0
"""SSTerrain: sounds of things that look alike are alike, and pictures tell in which cluster their sound is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import came, check_count, check_number, check_weights, check_widths
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional import linear_cross_entropy
from sslkernels.functional.clustering import kmeans_of_shared
from sslkernels.methods.clip import check_encoders
from sslkernels.methods.deep_cluster_v2 import Clusters
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import MemoryBank

FORM = "speech"


class SSTerrain(Method):
    """Self-Supervised Visual Terrain Classification from Unsupervised Acoustic Feature Learning. Zürn, Burgard and
    Valada, 2019.

    Each sample is a picture and its sound. A network of sounds learns from triplets: of two other samples of the batch,
    drawn at random, the one whose picture has the more similar features is the positive, the other the negative. Before
    each epoch but the first k-means clusters the sounds' rows, and the picture learns to tell its sound's cluster y:

    ``loss = mean_i max(0, |s_i - s_p|^2 - |s_i - s_n|^2 + margin) + told * mean_i cross_entropy(W f_i, y_i)``

    of unit rows s and the backbone's features f, which get a gradient of the second term alone. This follows the
    paper's abstract: how triplets are drawn, ``told``, the numbers, and clusters that begin where those of the epoch
    before were are ours. The paper's reconstruction of sounds is left out, and a patch is a whole picture.

    Args:
        backbone: pictures to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        encoders: ``{"speech": network}`` of sounds ``(N, 1, mels, frames)``, with a ``feature_dim``.
        samples: number of training samples; a run fills it.
        clusters: clusters of sounds; as many as samples if those are fewer.
        projection_dim: width of the sounds' rows.
        margin: of the squared distances, from 0.
        told: weight of the cross-entropy.
        backend, group: see `Method`.

    `forward` keeps the sounds' rows in training mode, and `after_step` writes them into the bank of every rank.

    >>> import torch
    >>> from sslkernels.methods import SSTerrain
    >>> from sslkernels.models import SpectrogramNet, resnet_small
    >>> encoders = {"speech": SpectrogramNet((8, 16))}
    >>> method = SSTerrain(resnet_small(), feature_dim=128, samples=64, clusters=5, encoders=encoders)
    >>> images, sounds = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 16, 20)
    >>> method([images], index=torch.arange(16), speech=sounds)["loss"].shape
    torch.Size([])
    """

    paper = "Zürn, Burgard and Valada 2019"
    arxiv = "1912.03227"
    family = SIMILARITY
    seeds = (63,)
    after_abstract = True
    views = 1
    # A method of one view would otherwise see pictures that are hardly changed.
    whole_views = True
    needs = ("index", FORM)
    small = {"epochs": 20, "batch_size": 64, "lr": 2e-3, "clusters": 30, "projection_dim": 64}
    # Nobody here could look the paper's up.
    paper_options = {"epochs": 100, "batch_size": 64, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        encoders: dict[str, nn.Module],
        samples: int,
        clusters: int = 5,
        projection_dim: int = 128,
        margin: float = 0.5,
        told: float = 1.0,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = "SSTerrain", self.check_feature_dim(feature_dim)
        encoders = check_encoders(name, encoders)
        if set(encoders) != {FORM}:
            raise ValueError(f"{name}: encoders has {came(sorted(encoders))}; pass one of 'speech' alone.")
        _, projection_dim = check_widths(name, feature_dim=feature_dim, projection_dim=projection_dim)
        samples = check_count(name, "samples", samples, projection_dim)
        clusters = min(samples, check_count(name, "clusters", clusters, projection_dim))
        self.margin = check_number(name, "margin", margin, least=0.0)
        (self.told,) = check_weights(name, told=told)
        self.encoders = nn.ModuleDict(encoders)
        width: Any = encoders[FORM].feature_dim
        self.projector = ProjectionHead(width, width, projection_dim)
        self.classifier = nn.Linear(feature_dim, clusters)
        self.bank = MemoryBank(samples, projection_dim, momentum=0.0)
        self.clusters = Clusters(1, clusters, projection_dim, samples)
        self._newest: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        if epoch == 0:
            return
        for part in (self.bank, self.clusters):
            part.agree(self.group)
        known = (self.clusters.targets >= 0).any()
        centroids = self.clusters.prototypes[0]
        found, own = kmeans_of_shared(
            self.bank.rows, len(centroids), metric="cosine", init=centroids.clone() if known else "k-means++",
            group=self.group, backend=self.backend,
        )  # fmt: skip
        centroids.copy_(found)
        self.clusters.targets.copy_(own[None])

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        needed = self.needed(given)
        features = self.features(self.one_view(views))
        rows = unit_rows(self.projector(self.encoders[FORM](needed[FORM])), backend=self.backend)
        index = self.bank.check_index(needed["index"], rows)
        if self.training:
            self._newest.append((index, rows.detach()))
        positive, negative = triplets(F.normalize(features.detach(), dim=1))
        embeddings = rows, rows[positive], rows[negative], features, index
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(  # type: ignore[override]
        self, rows: Tensor, positive: Tensor, negative: Tensor, features: Tensor, index: Tensor
    ) -> Tensor:
        self.clusters.agree(self.group)
        shard = shard_of(self.group, "SSTerrain", rows, features)
        apart = (rows - positive).square().sum(1) - (rows - negative).square().sum(1) + self.margin
        told = linear_cross_entropy(
            features, self.classifier.weight, self.clusters.targets[0][index], bias=self.classifier.bias,
            reduction="sum", backend=self.backend,
        )  # fmt: skip
        # Its mean over ranks is that of all rows.
        return (apart.relu().sum() + self.told * told) * shard.ranks / shard.total(len(index))

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            index, rows = (torch.cat(parts) for parts in zip(*self._newest, strict=True))
            self.bank.update(index, rows, group=self.group)
            self._newest.clear()


def triplets(looks: Tensor) -> tuple[Tensor, Tensor]:
    """Draw two others for each unit row ``(N, D)``; the more similar of them is the positive, the other the negative.

    With one row there is no other, and with two no second: rows come twice then.
    """
    rows = torch.arange(len(looks), device=looks.device)
    steps = 1 + torch.rand(len(looks), max(1, len(looks) - 1), device=looks.device).argsort(1)[:, :2]
    first, second = ((rows + steps[:, place]) % len(looks) for place in (0, steps.shape[1] - 1))
    nearer = (looks * looks[first]).sum(1) >= (looks * looks[second]).sum(1)
    return torch.where(nearer, first, second), torch.where(nearer, second, first)
