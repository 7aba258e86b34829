# SPDX-License-Identifier: Apache-2.0
"""DeepCluster-v2: tell the cluster in which an image was before the epoch, by the clusters' centroids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_size, check_temperature, check_widths
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional import linear_cross_entropy
from sslkernels.functional.clustering import kmeans_of_shared
from sslkernels.methods.method import Method
from sslkernels.models import ProjectionHead
from sslkernels.modules import Remembering
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.state import MemoryBank

VIEWS = 2
# Features that the projector embeds at once before the first epoch.
TOGETHER = 8192


class DeepClusterV2(Method):
    """Unsupervised Learning of Visual Features by Contrasting Cluster Assignments. Caron et al., NeurIPS 2020.

    The paper is SwAV's, whose authors made DeepCluster (Caron et al., ECCV 2018) anew beside it. A bank for each of the
    two views keeps the last embedding of every image. Before each epoch spherical k-means clusters a bank, several
    times from other starts, the banks in turn. Its centroids c are the weights of a classifier, which gets no gradient,
    and the image's cluster y is the target of both views in all of the epoch:

    ``loss = mean_h [log sum_k exp(<z, c_hk> / temperature) - <z, c_hy> / temperature]`` of unit rows z

    Before the first epoch the banks are filled with the embeddings of the images as they are. The authors fill them
    with those of views.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        samples: number of training samples; a run fills it.
        prototypes: clusters of each clustering; as many as samples if those are fewer.
        clusterings: how many times the samples are clustered before an epoch.
        projection_dim, hidden_dim: output and hidden width of the projector of two layers.
        temperature: temperature of the loss.
        iterations: iterations of k-means.
        backend: see `Method`.
        group: ranks that share banks and clusters; see `Method`. Each clusters a part of the samples.

    `forward` needs ``index``. In training mode it keeps the embeddings, and `after_step` writes them into the banks of
    every rank. Until `before_epoch` was called no image has a cluster, and the loss is 0.

    >>> import torch
    >>> from sslkernels.methods import DeepClusterV2
    >>> from sslkernels.models import resnet_small
    >>> method = DeepClusterV2(resnet_small(), feature_dim=128, samples=64, prototypes=5)
    >>> method.before_epoch(lambda: method.backbone(torch.rand(64, 1, 8, 8)), 0, 1)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views, index=torch.arange(16))["loss"].shape
    torch.Size([])
    """

    paper = "Caron et al. 2020"
    arxiv = "2006.09882"
    family = SIMILARITY
    needs: tuple[str, ...] = ("index",)
    small = {
        "epochs": 30, "batch_size": 256, "lr": 6e-3, "projection_dim": 128, "hidden_dim": 256, "prototypes": 300,
    }  # fmt: skip
    paper_options = {"epochs": 400, "batch_size": 4096, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        samples: int,
        prototypes: int = 3000,
        clusterings: int = 3,
        projection_dim: int = 128,
        hidden_dim: int = 2048,
        temperature: float = 0.1,
        iterations: int = 10,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = type(self).__name__, self.check_feature_dim(feature_dim)
        widths = {"feature_dim": feature_dim, "projection_dim": projection_dim, "hidden_dim": hidden_dim}
        _, projection_dim, hidden_dim = check_widths(name, **widths)
        samples = check_count(name, "samples", samples, projection_dim)
        prototypes = min(samples, check_count(name, "prototypes", prototypes, projection_dim))
        clusterings = check_count(name, "clusterings", clusterings, samples + prototypes * projection_dim)
        self.temperature = check_temperature(name, temperature)
        self.iterations = check_size(name, "iterations", iterations)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim)
        self.banks = nn.ModuleList(MemoryBank(samples, projection_dim, momentum=0.0) for _ in range(VIEWS))
        self.clusters = Clusters(clusterings, prototypes, projection_dim, samples)
        self._newest: list[tuple[Tensor, ...]] = []

    @torch.no_grad()
    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        rows = [bank.rows for bank in self.banks]
        if epoch == 0:
            embedded = torch.cat([self.projector(part) for part in embed().split(TOGETHER)])
            for row in rows:
                row.copy_(F.normalize(embedded, dim=1))
        for part in (*self.banks, self.clusters):
            part.agree(self.group)
        options: dict[str, Any] = {"metric": "cosine", "iterations": self.iterations, "init": "random", "empty": "keep"}
        options |= {"group": self.group, "backend": self.backend}
        for head, (centroids, own) in enumerate(zip(self.clusters.prototypes, self.clusters.targets, strict=True)):
            found = kmeans_of_shared(rows[head % VIEWS], len(centroids), **options)
            centroids.copy_(found[0])
            own.copy_(found[1])

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        embeddings = self.embedded(views, **given)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def embedded(self, views: Sequence[Tensor], **given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed both views ``(N, projection_dim)``, and keep their rows for the banks."""
        index = self.needed(given)["index"]
        z0, z1 = (self.projector(self.features(view)) for view in self.two_views(views))
        index = self.banks[0].check_index(index, z0)
        if self.training:
            self._newest.append((index, *(F.normalize(z.detach(), dim=1) for z in (z0, z1))))
        return z0, z1, index

    def loss(self, z0: Tensor, z1: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        self.clusters.agree(self.group)
        shard = shard_of(self.group, "DeepClusterV2", z0, z1)
        rows = unit_rows(z0, z1, backend=self.backend)
        options: dict[str, Any] = {"scale": 1 / self.temperature, "reduction": "sum", "backend": self.backend}
        losses = [
            linear_cross_entropy(rows, centroids.to(rows.dtype), own[index].repeat(VIEWS), **options)
            for centroids, own in zip(self.clusters.prototypes, self.clusters.targets, strict=True)
        ]
        # Its mean over ranks is that of all rows.
        return torch.stack(losses).mean() * shard.ranks / (VIEWS * shard.total(len(index)))

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            index, *rows = (torch.cat(parts) for parts in zip(*self._newest, strict=True))
            for bank, newest in zip(self.banks, rows, strict=True):
                bank.update(index, newest, group=self.group)
            self._newest.clear()


class Clusters(Remembering):
    """The centroids of each clustering, and the cluster of each sample in it; -1 before there are any."""

    remembered = ("prototypes", "targets")

    def __init__(self, clusterings: int, prototypes: int, dim: int, samples: int) -> None:
        super().__init__()
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written outside it
            self.prototypes = torch.zeros(clusterings, prototypes, dim)
            self.targets = torch.full((clusterings, samples), -1)
