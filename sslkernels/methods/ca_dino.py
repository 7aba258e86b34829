# SPDX-License-Identifier: Apache-2.0
"""CA-DINO: DINO whose views of a sound are taken of another sound of the same cluster too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_size, check_weights
from sslkernels.functional import negative_cosine_similarity
from sslkernels.functional.clustering import kmeans_of_shared
from sslkernels.functional.labelled import check_labels
from sslkernels.methods.deep_cluster_v2 import Clusters
from sslkernels.methods.dino import DINO
from sslkernels.methods.method import in_one_pass
from sslkernels.models import DINOHead


class CADINO(DINO):
    """Self-Supervised Learning with Cluster-Aware-DINO for High-Performance Robust Speaker Verification. Han, Chen and
    Qian, 2023: its first stage.

    Before each epoch k-means clusters the features of all samples. Every second view of a sample is then drawn of
    another sample of its cluster, and the loss is DINO's of these views, plus

        cosine * mean of (1 - cos(f_v, g_u)) over samples and the two pairs of unlike large views u, v

    with the student's features f and the teacher's g. This follows the paper's abstract: which embeddings the cosine
    compares, its weight and the number of clusters are ours. The other sample is sought in the batch, where the paper
    seeks it among all samples; so a batch should have several of each cluster. The second stage, a classifier of
    pseudo-labels behind a gate on its losses, is `DLGLC`.

    Args:
        backbone: sounds of every length that views have to features ``(N, feature_dim)``.
        samples: number of training samples; a run fills it.
        clusters: clusters of k-means; as many as samples if those are fewer.
        cluster_from: the epoch, from 0, from which there are clusters. Until then the views are the sample's own.
        cosine: weight of the cosine term.
        iterations: iterations of k-means.
        feature_dim, prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`.
        warmup, center_momentum, momentum, final_momentum, freeze, last, batch_norm, backend, group: as in `DINO`.

    >>> import torch
    >>> from sslkernels.methods import CADINO
    >>> from sslkernels.models import SpectrogramNet
    >>> sizes = {"prototypes": 64, "hidden_dim": 32, "projection_dim": 16}
    >>> method = CADINO(SpectrogramNet((8, 16)), feature_dim=32, samples=40, clusters=5, **sizes)
    >>> method.before_epoch(lambda: torch.randn(40, 32), 1, 2)
    >>> views = torch.randn(8, 1, 16, 30), torch.randn(8, 1, 16, 30), torch.randn(8, 1, 16, 20)
    >>> method(views, index=torch.arange(8))["loss"].shape
    torch.Size([])
    """

    paper = "Han, Chen and Qian 2023"
    arxiv = "2304.05754"
    seeds = (28,)
    after_abstract = True
    needs = ("index",)
    small = {**DINO.small, "clusters": 40, "cluster_from": 2}
    # These are DINO's: nobody here could look the paper's up.
    paper_options = DINO.paper_options

    def __init__(
        self,
        backbone: nn.Module,
        *,
        samples: int,
        clusters: int = 1000,
        cluster_from: int = 10,
        cosine: float = 1.0,
        iterations: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(backbone, **options)
        samples = check_count("CADINO", "samples", samples, self.feature_dim)
        clusters = min(samples, check_count("CADINO", "clusters", clusters, self.feature_dim))
        self.cluster_from = check_size("CADINO", "cluster_from", cluster_from, least=0)
        (self.cosine,) = check_weights("CADINO", cosine=cosine)
        self.iterations = check_size("CADINO", "iterations", iterations)
        self.clusters = Clusters(1, clusters, self.feature_dim, samples)

    @torch.no_grad()
    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        if epoch < self.cluster_from:
            return
        self.clusters.agree(self.group)
        centroids, own = kmeans_of_shared(
            embed(), self.clusters.prototypes.shape[1],
            metric="cosine", iterations=self.iterations, group=self.group, backend=self.backend,
        )  # fmt: skip
        self.clusters.prototypes.copy_(centroids[None])
        self.clusters.targets.copy_(own[None])

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        index = check_labels("CADINO", "index", self.needed(given)["index"], views[0])
        other = partners(self.clusters.targets[0][index])
        views = [view[other] if place % 2 else view for place, view in enumerate(views)]
        features = torch.cat(self.features_of(views))
        student = self.projector(features).chunk(len(views))
        with torch.no_grad():
            backbone, head, *_ = cast(nn.Sequential, self.teacher.module)
            seen = in_one_pass(backbone, views[:2])
            teacher = [cast(DINOHead, head)(each) for each in seen]
        if self.training:
            for rows in teacher:
                self.center.collect(rows)
        # The student's features of a view go beside the teacher's of the other.
        embeddings = (*student, *teacher, *features.chunk(len(views))[:2], *reversed(seen))
        loss, biases = self.compared(*embeddings)
        return {"loss": loss, "embeddings": embeddings, **self.watched(biases, teacher[0])}

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        *rows, first, second, beside_first, beside_second = embeddings
        student, teacher = torch.cat([first, second]), torch.cat([beside_first, beside_second])
        apart = 1 + negative_cosine_similarity(student, teacher, group=self.group, backend=self.backend)
        loss, biases = super().compared(*rows)
        return loss + self.cosine * apart, biases


def partners(cluster: Tensor) -> Tensor:
    """Draw, for each sample of a batch, another one of its ``cluster (N,)``: its row, or its own if there is no other
    or its cluster is -1.
    """
    own = torch.arange(len(cluster), device=cluster.device)
    cluster = torch.where(cluster < 0, -1 - own, cluster)
    mixed = torch.randperm(len(cluster), device=cluster.device)
    order = mixed[cluster[mixed].argsort(stable=True)]
    along = cluster[order]
    first = torch.searchsorted(along, along)
    count = torch.searchsorted(along, along, right=True) - first
    return torch.empty_like(own).scatter(0, order, order[first + (own - first + 1) % count])
