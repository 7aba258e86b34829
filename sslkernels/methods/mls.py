# SPDX-License-Identifier: Apache-2.0
"""MLS: an image has several labels, the images in a dictionary that look most like it, each told on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_size, check_temperature, check_widths
from sslkernels.distributed import GroupLike, all_rows
from sslkernels.functional import multi_label_bce, topk_similarity
from sslkernels.functional.similarity import sharded
from sslkernels.methods.method import Taught
from sslkernels.models import ProjectionHead
from sslkernels.ops.sigmoid import SIGMOID
from sslkernels.state import EMA, MemoryQueue


class MLS(Taught):
    """Multi-Label Self-Supervised Learning with Scene Images. Zhu et al., ICCV 2023.

    Two dictionaries are aligned: one has the teacher's features g of images, the other its projections z. Their first
    rows are the other views of the batch, the rest a queue of earlier ones. With g_i and z_i of the student,

    ``loss_i = mean_j BCE(sigmoid(<z_i, Q_z_j> / temperature + b), y_ij)``

    y_ij is 1 for the image's own row, and for the rows of Q_g that are nearest to g_i.

    This follows the paper's abstract and its figure. Ours are the number of labels, the temperature, the sizes and the
    momentum; that an image's own row is a label in any case; that the first view alone has a loss; and the bias b, the
    log-odds of a label, ``log(positives / (rows - positives))``.

    Args:
        backbone: images to features ``(N, feature_dim)``.
        feature_dim: features of the backbone, by which labels are found.
        hidden_dim, projection_dim: widths of the projector.
        queue_size: number of earlier images that each dictionary has.
        positives: labels of each image, its own row among them, 2 or more.
        temperature: temperature of the loss; see `sslkernels.functional.multi_label_bce`.
        momentum: momentum of the teacher.
        backend: see `Method`.
        group: ranks whose other views are in the dictionaries. BatchNorm's statistics are each rank's own, unless it is
            synchronised.

    In training mode `forward` keeps the teacher's rows, and `after_step` writes them into the queues of every rank.

    >>> import torch
    >>> from sslkernels.methods import MLS
    >>> from sslkernels.models import resnet_small
    >>> method = MLS(resnet_small(), feature_dim=128, hidden_dim=64, queue_size=256)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Zhu et al. 2023"
    arxiv = "2308.03286"
    seeds = (26,)
    after_abstract = True
    family = SIGMOID
    # With a temperature of 0.1, or with 8 labels, rows drew together and the loss rose above its first value.
    small = {
        "epochs": 12, "batch_size": 128, "lr": 2e-3, "hidden_dim": 256, "projection_dim": 128, "queue_size": 1024,
        "positives": 3, "temperature": 0.3, "momentum": 0.97,
    }  # fmt: skip
    paper_options = {"epochs": 400, "batch_size": 512, "lr": 1e-3}
    whole_views = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        hidden_dim: int = 2048,
        projection_dim: int = 128,
        queue_size: int = 8192,
        positives: int = 20,
        temperature: float = 0.2,
        momentum: float = 0.99,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            "MLS", feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        queue_size = check_count("MLS", "queue_size", queue_size, max(feature_dim, projection_dim))
        self.positives = check_size("MLS", "positives", positives, least=2, most=queue_size)
        self.temperature = check_temperature("MLS", temperature)
        momentum = check_number("MLS", "momentum", momentum, least=0, most=1)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim)
        self.teacher = EMA(self.online, momentum, backend=backend)
        self.looks = MemoryQueue(queue_size, feature_dim, backend=backend)
        self.queue = MemoryQueue(queue_size, projection_dim, backend=backend)
        self._newest: list[tuple[Tensor, Tensor]] = []

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        x0, x1 = self.two_views(views)
        looks, (key_looks, key) = self.features(x0), self.keys(x1)
        if self.training:
            self._newest.append((key_looks, key))
        embeddings = looks.detach(), self.projector(looks), key_looks, key
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, looks: Tensor, query: Tensor, key_looks: Tensor, key: Tensor) -> Tensor:  # type: ignore[override]
        self.looks.agree(self.group)
        self.queue.agree(self.group)
        shard = sharded(self.group, "MLS", query, looks, positives=self.positives, temperature=self.temperature)
        seen = torch.cat([all_rows(key_looks, shard), self.looks.keys])
        dictionary = torch.cat([all_rows(key, shard), self.queue.keys])
        own = shard.start + torch.arange(len(query), device=query.device)[:, None]
        looks = looks.to(seen.dtype)
        _, nearest = topk_similarity(looks, seen, self.positives - 1, exclude=own, backend=self.backend)
        losses = multi_label_bce(
            query,
            dictionary.to(query.dtype),
            torch.cat([own, nearest], 1),
            temperature=self.temperature,
            bias=math.log(self.positives / (len(dictionary) - self.positives)),
            reduction="sum",
            backend=self.backend,
        )
        return losses * (shard.ranks / shard.total(len(query)))  # its mean over ranks is that of all images

    @torch.no_grad()
    def keys(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the teacher's unit rows: features ``(N, feature_dim)`` and projections ``(N, projection_dim)``."""
        backbone, projector = self.teacher.module
        looks = backbone(images)
        return F.normalize(looks, dim=1), F.normalize(projector(looks), dim=1)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            looks, keys = (torch.cat(rows) for rows in zip(*self._newest, strict=True))
            self.looks.enqueue(looks, group=self.group)
            self.queue.enqueue(keys, group=self.group)
            self._newest.clear()
