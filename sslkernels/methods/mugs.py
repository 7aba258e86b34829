# SPDX-License-Identifier: Apache-2.0
"""Mugs: tell an image from all others, its neighbourhood from all others, and its group by prototypes, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_kind, check_size, check_temperature
from sslkernels.distributed import shard_of
from sslkernels.functional import info_nce, prototype_cross_entropy, topk_similarity
from sslkernels.methods.dino import DINO
from sslkernels.methods.method import in_one_pass
from sslkernels.methods.mokd import look
from sslkernels.methods.prototyped import STEADIED, followed
from sslkernels.models import ProjectionHead, ResNet, Transformer, ViT
from sslkernels.ops.dtypes import wide
from sslkernels.state import MemoryQueue

LEVELS = 3
# Heads of the transformer over a local group, where the backbone has none.
HEADS = 4


class Mugs(DINO):
    """Mugs: A Multi-Granular Self-Supervised Learning Framework. Zhou et al., 2022 (arXiv).

    The mean of three losses between a student's view and the teacher's row of another, large view of the image:

    - instance: `sslkernels.functional.info_nce` of the class token's projection, against a queue of the teacher's;
    - local group: the same of what a transformer makes of the mean of the view's patches and of the patches' means of
      the most similar images in a memory, against a queue of its own;
    - group: DINO's cross-entropy of the class token.

    In each, large views and small views weigh as much, however many there are.

    Args:
        backbone: a ResNet, of which the mean over places stands for the class token too; or a ViT with a class token,
            and ``any_size`` where views are of several sizes.
        feature_dim, prototypes, hidden_dim, temperature, teacher_temperature: as in `DINO`, for the group.
        projection_dim: features that each level compares.
        warmup, center_momentum, momentum, final_momentum, freeze, last, batch_norm, backend, group: as in `DINO`.
        instance_temperature: temperature of the first two losses.
        queue_size: rows of each queue, and of the memories of student and teacher.
        neighbours: number of similar images in a local group.

    In training mode `forward` keeps what `after_step` writes into queues and memories: the teacher's projections of
    both large views, and the student's and the teacher's means of the patches of the first one.

    The official code shows the teacher crops of its own, which are changed less. Its heads of the first two levels
    have GELU and no BatchNorm, and it looks for similar images with means from before the last LayerNorm.

    >>> import torch
    >>> from sslkernels.methods import Mugs
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, any_size=True)
    >>> method = Mugs(vit, feature_dim=32, prototypes=64, hidden_dim=32, projection_dim=16, queue_size=128)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Zhou et al. 2022"
    arxiv = "2203.14415"
    seeds = (85,)
    backbone: ViT | ResNet
    small = {**DINO.small, "epochs": 12, "queue_size": 1024}
    paper_options = {"epochs": 800, "batch_size": 1024, "lr": 8e-4, **STEADIED, "final_weight_decay": 0.2}

    def __init__(
        self,
        backbone: ViT | ResNet,
        *,
        hidden_dim: int = 2048,
        teacher_temperature: tuple[float, float] = (0.04, 0.04),
        instance_temperature: float = 0.2,
        queue_size: int = 65536,
        neighbours: int = 8,
        **options: Any,
    ) -> None:
        super().__init__(backbone, hidden_dim=hidden_dim, teacher_temperature=teacher_temperature, **options)
        if not isinstance(backbone, ViT):
            expected = "a sslkernels.models.ViT with class token, or a ResNet, which has features of each place"
            check_kind("Mugs", "backbone", backbone, ResNet, expected)
        elif not backbone.class_token:
            raise ValueError("Mugs: backbone has no class token; make it with one.")
        self.instance_temperature = check_temperature("Mugs", instance_temperature, "instance_temperature")
        projection_dim = self.projector.weight.shape[1]
        queue_size = check_count("Mugs", "queue_size", queue_size, 2 * (self.feature_dim + projection_dim))
        self.near = check_size("Mugs", "neighbours", neighbours, most=queue_size)
        self.instance, self.local = (
            ProjectionHead(self.feature_dim, hidden_dim, projection_dim, layers=3) for _ in range(2)
        )
        self.predictors = nn.ModuleList(
            ProjectionHead(projection_dim, 2 * hidden_dim, projection_dim) for _ in range(2)
        )
        heads = backbone.heads if isinstance(backbone, ViT) else HEADS
        self.relation = Transformer(self.feature_dim, depth=1, heads=heads)
        self.teach(self.teacher.momentum, self.teacher.final_momentum)
        widths = [projection_dim] * 2, [self.feature_dim] * 2
        # The teacher's projections of both levels, and the patches' means of student and teacher.
        self.queues, self.memories = (
            nn.ModuleList(MemoryQueue(queue_size, width, backend=self.backend) for width in each) for each in widths
        )
        self._newest: list[tuple[Tensor, ...]] = []

    @property
    def online(self) -> nn.Sequential:
        """Backbone, heads and transformer, of which the teacher has a copy; they are no chain."""
        further = [self.instance, self.local, self.relation] if hasattr(self, "relation") else []
        return nn.Sequential(self.backbone, self.projector, *further)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        *levels, mine = self.levels(self.online, views, 0)
        student = [predict(F.normalize(rows, dim=1)) for predict, rows in zip(self.predictors, levels, strict=False)]
        with torch.no_grad():
            *teacher, theirs = self.levels(cast(nn.Sequential, self.teacher.module), views[:2], 1)
        if self.training:
            self.center.collect(teacher[2])
            keys = [F.normalize(rows, dim=1) for rows in teacher[:2]]
            self._newest.append((*keys, mine[: len(views[0])].detach(), theirs[: len(views[0])]))
        embeddings = *student, levels[2], *teacher
        loss, biases = self.compared(*embeddings)
        return {"loss": loss, "embeddings": embeddings, **self.watched(biases, teacher[2])}

    def levels(self, network: nn.Sequential, views: Sequence[Tensor], memory: int) -> tuple[Tensor, ...]:
        """Compute the rows of all views, one view after another, at the three levels, and the means of patches."""
        backbone, group, instance, local, relation = network
        rows = torch.cat(in_one_pass(lambda images: summary(backbone, images), views))
        token, mean = rows.chunk(2, 1)
        queue = cast(MemoryQueue, self.memories[memory])
        queue.agree(self.group)
        known = queue.keys.to(mean.dtype)
        near = topk_similarity(mean.detach(), known, self.near, metric="cosine", backend=self.backend)[1]
        gathered = relation(torch.cat([mean[:, None], known[near]], 1))[:, 0]
        return instance(token), local(gathered), group(token), mean

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        student, teacher = embeddings[:LEVELS], embeddings[LEVELS:]
        count = len(teacher[0]) // 2
        views = len(student[0]) // count
        weight = self.row_weights(views, teacher[0][:count])
        losses = [
            self._contrast(cast(MemoryQueue, queue), query, key, weight)
            for queue, query, key in zip(self.queues, student, teacher, strict=False)
        ]
        bias = self.bias(self.center, teacher[2], self.teacher_weight, self.group)
        losses.append(
            prototype_cross_entropy(
                student[2],
                self.projector.weight,
                teacher[2],
                self.teacher_weight,
                temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
                bias=bias,
                row_weight=weight,
                teacher_index=followed(views, teacher[2][:count]),
                backend=self.backend,
            )
        )
        return torch.stack(losses).mean(), (bias,)

    def row_weights(self, views: int, rows: Tensor) -> Tensor:
        """Weigh the terms of each view's rows, of which ``rows (N, D)`` are one: ``(views * N,)``.

        Large views follow one view of the teacher, small ones follow two. The mean over ranks is that of all samples.
        """
        shard = shard_of(self.group, "Mugs", rows)
        terms, small = 2 * shard.total(len(rows)) / shard.ranks, views - 2
        each = [(0.5 if small else 1.0) / terms] * 2 + [0.5 / (terms * max(small, 1))] * small
        return torch.tensor(each, dtype=wide(rows.dtype), device=rows.device).repeat_interleave(len(rows))

    def _contrast(self, queue: MemoryQueue, query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        """Compute the InfoNCE of each view with those of the teacher's two that are not itself."""
        queue.agree(self.group)
        mine, theirs, weights = query.split(len(key) // 2), key.chunk(2), weight.split(len(key) // 2)
        pairs = [(v, u) for u in range(2) for v in range(len(mine)) if u != v]
        losses = info_nce(
            torch.cat([mine[v] for v, _ in pairs]),
            torch.cat([theirs[u] for _, u in pairs]),
            negatives=queue.keys,
            temperature=self.instance_temperature,
            reduction="none",
            backend=self.backend,
        )
        return (losses * torch.cat([weights[v] for v, _ in pairs])).sum()

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            for queue, parts in zip((*self.queues, *self.memories), zip(*self._newest, strict=True), strict=True):
                cast(MemoryQueue, queue).enqueue(torch.cat(parts), group=self.group)
            self._newest.clear()


def summary(backbone: nn.Module, images: Tensor) -> Tensor:
    """Compute the features, and beside them the mean over places: ``(N, 2 * feature_dim)``."""
    feature, places, _ = look(backbone, images)
    return torch.cat([feature, places.mean(1)], 1)
