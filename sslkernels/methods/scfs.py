# SPDX-License-Identifier: Apache-2.0
"""SCFS: DINO at several depths, and a small crop is compared with what the teacher sees of it in the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_kind, check_size
from sslkernels.distributed import shard_of
from sslkernels.functional.assignments import centred, soft_cross_entropy
from sslkernels.methods.dino import DINO
from sslkernels.methods.prototyped import STEADIED
from sslkernels.models import ProjectionHead, ResNet
from sslkernels.state import Center

# Rows that the loss has of each stage: of large views the student's and the teacher's, and of small ones.
EACH = 4


class SCFS(DINO):
    """Semantics-Consistent Feature Search for Self-Supervised Visual Representation Learning. Song et al., 2022.

    DINO's loss on the averaged features, plus for each of the last stages of a ResNet the mean of two cross-entropies
    between unit rows z of heads of their own, ``-sum_k P_k log softmax(z / temperature)_k``:

    - of each large view, with ``P = softmax((z' - center) / teacher_temperature)``, the teacher's of the other one;
    - of each small view, with ``P = softmax(z' / teacher_temperature)``. The teacher's head sees ``A_p F_p`` there, its
      features F at the places p of the first large view times their cosine A with the student's mean of the small one.

    Args:
        backbone: a ResNet.
        feature_dim, prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`.
            ``projection_dim`` is the length of z too.
        warmup, center_momentum, momentum, final_momentum, freeze, last, batch_norm, backend, group: as in `DINO`.
        stages: how many of the ResNet's last stages are compared.

    Without small views the cross-entropy of large ones stands alone. BatchNorm's statistics are each rank's own. As in
    the official code a head is a bottleneck of three convolutions beside a shortcut, the mean over places, and a
    projector of two layers; its last BatchNorm has no weights here.

    >>> import torch
    >>> from sslkernels.methods import SCFS
    >>> from sslkernels.models import resnet_small
    >>> method = SCFS(resnet_small(), feature_dim=128, prototypes=64, hidden_dim=64, projection_dim=32, stages=2)
    >>> views = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16), torch.rand(8, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Song et al. 2022"
    arxiv = "2212.06486"
    seeds = (116,)
    backbone: ResNet
    small = {**DINO.small, "epochs": 15, "stages": 2}
    paper_options = {"epochs": 200, "batch_size": 512, "lr": 1e-3, **STEADIED}

    def __init__(
        self,
        backbone: ResNet,
        *,
        hidden_dim: int = 2048,
        teacher_temperature: tuple[float, float] = (0.04, 0.04),
        stages: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(backbone, hidden_dim=hidden_dim, teacher_temperature=teacher_temperature, **options)
        resnet = check_kind("SCFS", "backbone", backbone, ResNet, "a sslkernels.models.ResNet, which has stages")
        widths = resnet.widths[-check_size("SCFS", "stages", stages, most=len(resnet.widths)) :]
        projection_dim = self.projector.weight.shape[1]
        self.searches = nn.ModuleList(SearchHead(width, hidden_dim, projection_dim) for width in widths)
        self.centers = nn.ModuleList(Center(projection_dim, self.center.momentum) for _ in widths)
        self.teach(self.teacher.momentum, self.teacher.final_momentum)

    @property
    def online(self) -> nn.Sequential:
        """Backbone and heads, of which the teacher has a copy; they are no chain."""
        return nn.Sequential(self.backbone, self.projector, *getattr(self, "searches", []))

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        large = torch.cat(views[:2])
        mine = self.backbone.stage_grids(large)
        local = self.backbone.stage_grids(torch.cat(views[2:])) if views[2:] else [grid[:0] for grid in mine]
        features = torch.cat([grids[-1].mean((2, 3)) for grids in (mine, local)])
        student = self.projector(features).chunk(len(views))
        with torch.no_grad():
            backbone, head, *searches = cast(nn.Sequential, self.teacher.module)
            theirs = cast(ResNet, backbone).stage_grids(large)
            teacher = head(theirs[-1].mean((2, 3))).chunk(2)
        rows: list[Tensor] = []
        count = len(self.searches)
        for search, taught, *grids in zip(
            self.searches, searches, mine[-count:], local[-count:], theirs[-count:], strict=True
        ):
            large_grid, small_grid, seen = grids
            rows += [search(large_grid), taught(seen), search(small_grid), taught(found(seen, small_grid, len(views)))]
        if self.training:
            self.center.collect(torch.cat(teacher))
            for center, taught_rows in zip(self.centers, rows[1::EACH], strict=True):
                cast(Center, center).collect(taught_rows)
        embeddings = (*student, *teacher, *rows)
        loss, biases = self.compared(*embeddings)
        return {"loss": loss, "embeddings": embeddings, **self.watched(biases, teacher[0])}

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        own, rows = embeddings[: -EACH * len(self.centers)], embeddings[-EACH * len(self.centers) :]
        loss, biases = super().compared(*own)
        for place, center in enumerate(self.centers):
            loss = loss + self._stage(cast(Center, center), *rows[EACH * place :][:EACH])
        return loss, biases

    def _stage(self, center: Center, large: Tensor, taught: Tensor, small: Tensor, searched: Tensor) -> Tensor:
        """Compute the mean of both cross-entropies of a stage; its mean over ranks is that of all samples."""
        center.agree(self.group)
        other = torch.cat(taught.chunk(2)[::-1])
        pairs = [(large, centred(other, center.center, self.teacher_temperature))]
        if len(small):
            pairs.append((small, centred(searched, torch.zeros_like(center.center), self.teacher_temperature)))
        shard = shard_of(self.group, "SCFS", large)
        uneven = len(large) * shard.ranks / shard.total(len(large))
        losses = [soft_cross_entropy(mine, targets, self.temperature).mean() for mine, targets in pairs]
        return torch.stack(losses).mean() * uneven

    def after_step(self, step: int, total_steps: float) -> None:
        for center in self.centers:
            logits = cast(Center, center).center  # rows are logits themselves
            cast(Center, center).update(torch.eye(logits.shape[1]).to(logits), group=self.group)
        super().after_step(step, total_steps)


class SearchHead(nn.Module):
    """Map the features of all places ``(N, C, H, W)`` to a unit row ``(N, out_dim)``."""

    def __init__(self, channels: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.Conv2d(channels, out_dim, 1, bias=False), nn.BatchNorm2d(out_dim), nn.ReLU(inplace=True),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False), nn.BatchNorm2d(out_dim), nn.ReLU(inplace=True),
            nn.Conv2d(out_dim, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.projector = ProjectionHead(channels, hidden_dim, out_dim, norm_out=True)

    def forward(self, grid: Tensor) -> Tensor:
        if not len(grid):  # BatchNorm has no statistics of nothing
            return grid.new_zeros(0, self.projector[-1].num_features)  # type: ignore[arg-type]
        return F.normalize(self.projector(F.relu(self.bottleneck(grid) + grid).mean((2, 3))), dim=1)


@torch.no_grad()
def found(grid: Tensor, small: Tensor, views: int) -> Tensor:
    """Weigh the teacher's features of the first large view ``(2 * N, C, H, W)`` by what small views have of them."""
    where = grid[: len(grid) // 2].repeat(views - 2, 1, 1, 1)
    sought = F.normalize(small.mean((2, 3)), dim=1)
    return (F.normalize(where, dim=1) * sought[:, :, None, None]).sum(1, keepdim=True) * where
