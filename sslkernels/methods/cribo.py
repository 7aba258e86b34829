# SPDX-License-Identifier: Apache-2.0
"""CrIBo: DINO, and the objects of an image are assigned as those of its other view and of the most alike image are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_kind, check_size
from sslkernels.distributed import all_rows, shard_of, summed
from sslkernels.functional import prototype_cross_entropy, topk_similarity
from sslkernels.methods.dino import DINO
from sslkernels.methods.method import in_one_pass
from sslkernels.methods.mokd import look
from sslkernels.models import ResNet, ViT
from sslkernels.ops.dtypes import wide
from sslkernels.prototypes import Prototypes
from sslkernels.state import Center, MemoryQueue

# The official code's numbers: rounds of the clustering, rounds of Sinkhorn-Knopp in each, and how sharp they are.
ROUNDS = 5
SINKHORN = 5
SHARPNESS = 20.0


class CrIBo(DINO):
    """CrIBo: Self-Supervised Learning via Cross-Image Object-Level Bootstrapping. Lebailly et al., ICLR 2024.

    The teacher's patches of both large views of an image are clustered together. An object is a cluster that has
    patches in both views; o_v and o'_v are the means of its patches in view v, the student's and the teacher's. With
    ``H(x, y)`` the cross-entropy of DINO between the teacher's assignment of x and the student's of y, the loss is
    DINO's on class tokens, plus the mean over objects of

        (H(o'_1, o_2) + H(o'_2, o_1)) / 2,

    and, from the second epoch on, plus half the sum of the means of ``H(n_1, o_2)`` and ``H(n_2, o_1)``: n_v is the
    object of an earlier image whose view v is the most like o'_v, by its cosine in a queue. A neighbour counts if the
    way back leads to the same object: of the batch's objects in the other view, its own is the nearest.

    Args:
        backbone: a ResNet, whose places are its patches; or a ViT with a class token, and ``any_size`` where views are
            of several sizes.
        feature_dim, prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`.
        warmup, center_momentum, momentum, final_momentum, freeze, last, batch_norm, backend, group: as in `DINO`.
            Objects have as many prototypes as class tokens, behind the same hidden layers.
        clusters: of an image's patches, at most twice as many as a view has patches.
        queue_size: number of objects in the queue; the paper's has those of 25,000 images.

    The official cost of a patch in a cluster is minus their cosine, plus the distance to the cluster's nearest patch in
    the picture. Views do not say here where they were cut, so the distance is left out. Costs are scaled in each image
    by itself, and the means over neighbours are each by its own count; the official code scales over the batch, and
    divides both by the first count.

    `forward` gives besides ``objects``, how many an image has, and ``bootstrapped``, the share that has a neighbour.

    >>> import torch
    >>> from sslkernels.methods import CrIBo
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, any_size=True)
    >>> sizes = {"prototypes": 64, "hidden_dim": 32, "projection_dim": 16, "clusters": 4, "queue_size": 128}
    >>> method = CrIBo(vit, feature_dim=32, **sizes)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Lebailly et al. 2024"
    arxiv = "2310.07855"
    seeds = (73,)
    backbone: ViT | ResNet
    small = {**DINO.small, "epochs": 15, "clusters": 3, "queue_size": 4096}
    # The official code clips no gradients.
    paper_options = {
        "epochs": 300, "batch_size": 1024, "lr": 2e-3, "last": "scaled", "weight_decay": 0.04,
        "final_weight_decay": 0.4,
    }  # fmt: skip

    def __init__(
        self,
        backbone: ViT | ResNet,
        *,
        warmup: float = 0.1,
        last: Literal["unit", "scaled", "linear"] = "unit",
        clusters: int = 32,
        queue_size: int = 800_000,
        **options: Any,
    ) -> None:
        super().__init__(backbone, warmup=warmup, last=last, **options)
        if not isinstance(backbone, ViT):
            expected = "a sslkernels.models.ViT with class token, or a ResNet, which has features of each place"
            check_kind("CrIBo", "backbone", backbone, ResNet, expected)
        elif not backbone.class_token:
            raise ValueError("CrIBo: backbone has no class token; make it with one.")
        self.clusters = check_size("CrIBo", "clusters", clusters)
        queue_size = check_count("CrIBo", "queue_size", queue_size, 2 * self.feature_dim)
        prototypes, projection_dim = self.projector.weight.shape
        self.object_layer = Prototypes(projection_dim, prototypes, kind=last)
        self.object_center = Center(prototypes, self.center.momentum)
        self.teach(self.teacher.momentum, self.teacher.final_momentum)
        # A row has an object in both views.
        self.queue = MemoryQueue(queue_size, 2 * self.feature_dim, backend=self.backend)
        self.bootstraps = False
        self._newest: list[Tensor] = []

    @property
    def online(self) -> nn.Sequential:
        """Backbone, head, and the objects' prototypes, of which the teacher has a copy; they are no chain."""
        layers = [self.object_layer] if hasattr(self, "object_layer") else []
        return nn.Sequential(self.backbone, self.projector, *layers)

    @property
    def last_layers(self) -> list[Prototypes]:
        return [*super().last_layers, self.object_layer]

    @property
    def object_weight(self) -> Tensor:
        """The teacher's prototypes of objects ``(prototypes, projection_dim)``."""
        return cast(Prototypes, cast(nn.Sequential, self.teacher.module)[2]).weight

    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        self.bootstraps = epoch > 0

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        large = torch.cat(views[:2])
        feature, places, _ = look(self.backbone, large)
        features = torch.cat([feature, *in_one_pass(self.features, views[2:])])
        student = self.projector(features).chunk(len(views))
        with torch.no_grad():
            backbone, head, *_ = cast(nn.Sequential, self.teacher.module)
            seen, patches, _ = look(backbone, large)
            teacher, patches = head(seen).chunk(2), torch.stack(patches.chunk(2), 1)
            shares, valid = self.members(patches)
            objects = means(shares, patches)
            targets = head(objects.flip(0).flatten(0, 1))
            near, back = self.neighbours(objects, valid)
            neighbours = head(near)
        if self.training:
            self.center.collect(torch.cat(teacher))
            self.object_center.collect(targets[valid.repeat(2)])
            self._newest.append(torch.cat([*objects], 1)[valid])
        mine = self.projector(means(shares, torch.stack(places.chunk(2), 1)).flatten(0, 1))
        weight, *near_weights = self.weights(objects, valid, *back)
        near_weight = self.bootstraps * torch.cat(near_weights)
        embeddings = (*student, *teacher, mine, targets, weight.repeat(2), neighbours, near_weight)
        figures = {
            "objects": 2 * valid.sum() / len(large),
            "bootstrapped": torch.cat(back).sum() / (2 * valid.sum()).clamp_min(1),
        }
        loss, biases = self.compared(*embeddings)
        return {"loss": loss, "embeddings": embeddings, **figures, **self.watched(biases, teacher[0])}

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        *own, mine, targets, weight, neighbours, neighbour_weight = embeddings
        loss, biases = super().compared(*own)
        bias = self.bias(self.object_center, targets, self.object_weight, self.group)
        for rows, row_weight in ((targets, weight), (neighbours, neighbour_weight)):
            loss = loss + prototype_cross_entropy(
                mine,
                self.object_layer.weight,
                rows,
                self.object_weight,
                temperature=self.temperature,
                teacher_temperature=self.teacher_temperature,
                bias=bias,
                row_weight=row_weight,
                backend=self.backend,
            )
        return loss, biases

    @torch.no_grad()
    def members(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Cluster the patches ``(N, 2, L, D)`` of both views of each image.

        Products are of few tokens with the centroids of their own image, which are batched.

        Returns:
            How much each patch counts in the mean of each cluster of its view, ``(N, 2, L, clusters)``; and which
            clusters are in both views, ``(N * clusters,)``.
        """
        tokens = F.normalize(patches.flatten(1, 2), dim=2)
        if tokens.shape[1] < self.clusters:
            raise ValueError(
                f"CrIBo: clusters is {self.clusters} and two views have {tokens.shape[1]} patches; pass no more."
            )
        first = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1)[:, : self.clusters]
        centroids = tokens.gather(1, first[..., None].expand(-1, -1, tokens.shape[2]))
        share = tokens.new_full((len(tokens), 1, self.clusters), 1 / self.clusters)
        for _ in range(ROUNDS):
            cost = -tokens @ centroids.mT
            low, high = cost.amin((1, 2), keepdim=True), cost.amax((1, 2), keepdim=True)
            logits = -SHARPNESS * (cost - low) / (high - low).clamp_min(1e-6)
            member = F.one_hot(transported(logits, share).argmax(2), self.clusters).to(tokens.dtype)
            share = member.sum(1, keepdim=True) + 1e-2
            share = share / share.sum(2, keepdim=True)
            centroids = F.normalize(member.mT @ tokens, dim=2)
        member = member.unflatten(1, (2, -1))
        counts = member.sum(2, keepdim=True)
        # A cluster that a view lacks counts for nothing. It gets the mean of all, which spares a head's BatchNorm.
        shares = torch.where(counts > 0, member / counts.clamp_min(1), 1 / member.shape[2])
        return shares, (counts > 0).all(1).flatten()

    @torch.no_grad()
    def neighbours(self, objects: Tensor, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Find in the queue what is most like the teacher's objects ``(2, M, feature_dim)``, those that are valid.

        Returns:
            Rows ``(2 * M, feature_dim)``, those for the student's first view first; and for each view which of them
            lead back to the object from which they were found, ``(M,)``.
        """
        self.queue.agree(self.group)
        keys = self.queue.keys.to(objects.dtype).unflatten(1, (2, -1))
        shard = shard_of(self.group, "CrIBo, objects", objects[0])
        own = torch.arange(len(valid), device=valid.device) + shard.start
        bias = torch.where(all_rows(valid[:, None], shard)[:, 0], 0.0, -torch.inf).to(objects.dtype)
        rows, back = [], []
        for view, other in ((1, 0), (0, 1)):
            place = topk_similarity(objects[view], keys[:, view], metric="cosine", backend=self.backend)[1][:, 0]
            candidates = all_rows(objects[other], shard)
            found = topk_similarity(keys[place, other], candidates, metric="cosine", bias=bias, backend=self.backend)[
                1
            ][:, 0]
            rows.append(keys[place, view])
            back.append(valid & (found == own))
        return torch.cat(rows), back

    def weights(self, rows: Tensor, *counted: Tensor) -> list[Tensor]:
        """Weigh the ``rows`` of a view that count, ``(M,)`` each, so that their mean over ranks is half of a term."""
        shard = shard_of(self.group, "CrIBo, counted", counted[0][:, None])
        totals = summed(torch.stack([each.sum() for each in counted]).to(wide(rows.dtype)), shard).clamp_min(1)
        return [each * shard.ranks / (2 * total) for each, total in zip(counted, totals, strict=True)]

    def after_step(self, step: int, total_steps: float) -> None:
        self.object_center.update(self.object_weight, group=self.group)
        super().after_step(step, total_steps)
        if self._newest:
            self.queue.enqueue(torch.cat(self._newest), group=self.group)
            self._newest.clear()


def means(shares: Tensor, patches: Tensor) -> Tensor:
    """Average the patches ``(N, 2, L, D)`` of each cluster and view: ``(2, N * clusters, D)``."""
    return (shares.to(patches.dtype).mT @ patches).transpose(0, 1).flatten(1, 2)


def transported(logits: Tensor, share: Tensor) -> Tensor:
    """Let each cluster have its share ``(N, 1, K)`` of tokens with logits ``(N, L, K)``, as Sinkhorn-Knopp does."""
    offset = -logits.logsumexp(2, keepdim=True)
    for _ in range(SINKHORN):
        bias = share.log() - (logits + offset).logsumexp(1, keepdim=True)
        offset = -(logits + bias).logsumexp(2, keepdim=True)
    return logits + bias
