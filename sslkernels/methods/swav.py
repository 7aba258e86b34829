# SPDX-License-Identifier: Apache-2.0
"""SwAV: predict, from one crop of an image, the cluster to which another one is assigned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_size, check_temperature, check_widths
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional import prototype_cross_entropy, sinkhorn_bias
from sslkernels.methods.method import Method
from sslkernels.methods.prototyped import row_weight, usage
from sslkernels.models import ProjectionHead
from sslkernels.ops.dtypes import wide
from sslkernels.ops.prototypes import PROTOTYPES
from sslkernels.prototypes import Prototypes
from sslkernels.state import MemoryQueue


class SwAV(Method):
    """Unsupervised Learning of Visual Features by Contrasting Cluster Assignments. Caron et al., NeurIPS 2020.

    With unit rows z of the views and prototypes W of length 1: the mean over the first two views u, over all other
    views v, and over samples of

        -sum_k Q_k log softmax(z_v W^T / temperature)_k,   Q = softmax(z_u W^T / epsilon + b)

    where `sslkernels.functional.sinkhorn_bias` finds the b that spreads the rows of all samples over the prototypes.

    Args:
        backbone: images of every size that views have to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        prototypes: number of prototypes.
        hidden_dim, projection_dim: widths of the projector.
        temperature: temperature of the predictions.
        epsilon: temperature of the assignments.
        iterations: rounds of Sinkhorn-Knopp.
        queue_size: number of earlier rows of each of the two views that are spread together with the batch, for batches
            that are small beside the prototypes. 0 for none.
        queue_from: the epoch, from 0, from which rows are remembered. They count when the queue is full.
        freeze: number of steps in which the prototypes stand still, at the begin; 5,005 are an epoch of the paper with
            batches of 256.
        backend, group: see `Method`. Assignments are spread over the rows of all ranks.

    `forward` takes two views or more; views of one size go through the network together. It gives besides how the
    first view uses the prototypes, which a run logs: ``teacher_entropy``, ``largest_probability``, ``largest_share``
    and ``effective_prototypes``.

    >>> import torch
    >>> from sslkernels.methods import SwAV
    >>> from sslkernels.models import resnet_small
    >>> method = SwAV(resnet_small(), feature_dim=128, prototypes=64, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16), torch.rand(8, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Caron et al. 2020"
    arxiv = "2006.09882"
    family = PROTOTYPES
    views = None
    small = {
        "epochs": 20, "batch_size": 64, "lr": 2e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 128,
        "freeze": 20,
    }  # fmt: skip
    paper_options = {"epochs": 400, "batch_size": 256, "lr": 1e-3, "queue_size": 3840}

    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        prototypes: int = 3000,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        queue_size: int = 0,
        queue_from: int = 15,
        freeze: int = 5005,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "SwAV", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        prototypes = check_count("SwAV", "prototypes", prototypes, projection_dim)
        self.temperature = check_temperature("SwAV", temperature)
        self.epsilon = check_number("SwAV", "epsilon", epsilon, above=0)
        self.iterations = check_size("SwAV", "iterations", iterations)
        queue_size = check_size("SwAV", "queue_size", queue_size, least=0)
        self.queue_from = check_size("SwAV", "queue_from", queue_from, least=0)
        self.freeze = check_size("SwAV", "freeze", freeze, least=0)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim)
        self.prototypes = Prototypes(projection_dim, prototypes, kind="sphere")
        if queue_size:
            check_count("SwAV", "queue_size", queue_size, 2 * projection_dim)
        self.queues = nn.ModuleList(
            MemoryQueue(queue_size, projection_dim, backend=backend) for _ in range(2 if queue_size else 0)
        )
        # How many rows were written into each queue, which begins with random ones.
        self.register_buffer("queued", torch.zeros((), dtype=torch.int64))
        self.remembers = self.queue_from == 0
        self._newest: list[tuple[Tensor, ...]] = []

    def before_epoch(self, embed: Callable[[], Tensor], epoch: int, epochs: int | None) -> None:
        self.remembers = epoch >= self.queue_from

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        features = torch.cat(self.features_of(self.any_views(views)))
        rows = F.normalize(self.projector(features), dim=1).chunk(len(views))
        if self.training and self.remembers and len(self.queues):
            self._newest.append(tuple(row.detach() for row in rows[:2]))
        loss, bias = self._swapped(rows)
        return {"loss": loss, "embeddings": rows, **usage(rows[0], self.prototypes.weight, self.epsilon, bias)}

    def loss(self, *embeddings: Tensor) -> Tensor:
        return self._swapped(embeddings)[0]

    def _swapped(self, rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the loss, and the bias of the first view's assignments."""
        weight = row_weight("SwAV", rows[1:], len(rows) - 1, self.group)
        losses, biases = [], []
        for place in (0, 1):
            biases.append(self.bias(rows[place].detach(), place))
            losses.append(
                prototype_cross_entropy(
                    torch.stack([*rows[:place], *rows[place + 1 :]]),
                    self.prototypes.weight,
                    rows[place].detach(),
                    temperature=self.temperature,
                    teacher_temperature=self.epsilon,
                    bias=biases[-1],
                    row_weight=None if weight is None else weight.view(len(rows) - 1, -1),
                    backend=self.backend,
                )
            )
        return (losses[0] + losses[1]) / 2, biases[0]

    def bias(self, rows: Tensor, place: int) -> Tensor:
        """Find the bias of the prototypes that spreads rows of view ``place``, those of the queue among them."""
        weight = None
        if len(self.queues):
            queue: MemoryQueue = self.queues[place]  # type: ignore[assignment]
            queue.agree(self.group)
            # Every rank has the whole queue, which counts once.
            share = 1 / shard_of(self.group, "SwAV", rows).ranks
            new = torch.ones_like(rows[:, 0], dtype=wide(rows.dtype))
            old = torch.where(self.queued >= len(queue.keys), new.new_full((), share), 0).expand(len(queue.keys))
            weight = torch.cat([old, new])
            rows = torch.cat([queue.keys.to(rows.dtype), rows])
        return sinkhorn_bias(
            rows,
            self.prototypes.weight.detach(),
            self.epsilon,
            iterations=self.iterations,
            row_weight=weight,
            group=self.group,
            backend=self.backend,
        )

    def before_step(self, step: int, total_steps: float) -> None:
        if step < self.freeze:
            self.prototypes.freeze()

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.prototypes.normalize()
        if self._newest:
            for queue, parts in zip(self.queues, zip(*self._newest, strict=True), strict=True):
                new = torch.cat(parts)
                queue.enqueue(new, group=self.group)
            self.queued += shard_of(self.group, "SwAV", new).total(len(new))
            self._newest.clear()
