# SPDX-License-Identifier: Apache-2.0
"""DINOv2 and DINOv3: iBOT with two heads, class tokens that keep apart, and patches as similar as they once were."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sslkernels.arguments import check_number, check_size, check_weights
from sslkernels.distributed import shard_of
from sslkernels.functional import gram_loss, koleo
from sslkernels.methods.ibot import IBOT
from sslkernels.methods.prototyped import STEADIED
from sslkernels.models import ViT
from sslkernels.schedules import share_done
from sslkernels.state import EMA


class DINOv2(IBOT):
    """DINOv2: Learning Robust Visual Features without Supervision. Oquab et al., TMLR 2024.

    iBOT's loss with a head of the patches' own and targets that Sinkhorn-Knopp spreads, plus `koleo` times the sum of
    KoLeo over the two large views' class tokens, as they leave the backbone (`sslkernels.functional.koleo`). DINOv3
    (Siméoni et al. 2025, arXiv 2508.10104) adds `gram` times

        mean over large views of mean_ij (<x_i, x_j> - <y_i, y_j>)^2

    of unit patches x of the student, of which some are hidden, and y of an earlier teacher, which sees the whole view.

    Args:
        backbone: as in `IBOT`.
        feature_dim, prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`.
        warmup, center_momentum, momentum, final_momentum, freeze, last, batch_norm, backend, group: as in `DINO`.
        shared_head, patch_head, mask_ratio, mask_probability, mask_shape, centering: as in `IBOT`.
        koleo: weight of KoLeo. Class tokens find neighbours on all ranks of the group, upstream on their own alone.
        gram: weight of the similarities; 0 for none.
        gram_from: the share of the training after which they count. Where no end is known, it must be 0 to count.
        gram_every: steps from which on a copy of the teacher of that step takes the earlier teacher's place.

    The earlier teacher is saved with the method. DINOv3 shows it larger images than the student, begins after as long a
    training with a constant rate, and replaces it three times at most; these three are not here.

    >>> import torch
    >>> from sslkernels.methods import DINOv2
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, mask_token=True, any_size=True)
    >>> method = DINOv2(vit, feature_dim=32, prototypes=64, hidden_dim=32, projection_dim=16)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Oquab et al. 2023"
    arxiv = "2304.07193"
    small = {
        "epochs": 25, "batch_size": 32, "lr": 3e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 64,
        "momentum": 0.98, "batch_norm": True, "teacher_temperature": (0.04, 0.04),
    }  # fmt: skip
    # The official configuration of ViT-L/14.
    paper_options = {
        "epochs": 500, "batch_size": 3072, "lr": 3.5e-4, "prototypes": 131072, "projection_dim": 384,
        "momentum": 0.994, "warmup": 0.06, "freeze": 0.002, **STEADIED,
    }  # fmt: skip

    def __init__(
        self,
        backbone: ViT,
        *,
        feature_dim: int,
        prototypes: int = 65536,
        momentum: float = 0.992,
        last: Literal["unit", "scaled", "linear"] = "scaled",
        shared_head: bool = False,
        centering: Literal["center", "sinkhorn"] = "sinkhorn",
        koleo: float = 0.1,
        gram: float = 0.0,
        gram_from: float = 0.5,
        gram_every: int = 10000,
        **options: Any,
    ) -> None:
        super().__init__(
            backbone, feature_dim=feature_dim, prototypes=prototypes, momentum=momentum, last=last,
            shared_head=shared_head, centering=centering, **options,
        )  # fmt: skip
        self.koleo, self.gram = check_weights("DINOv2", koleo=koleo, gram=gram)
        self.gram_from = check_number("DINOv2", "gram_from", gram_from, least=0, most=1)
        self.gram_every = check_size("DINOv2", "gram_every", gram_every)
        if self.gram:
            # With no momentum an update copies. It counts them, and remembers the step of the last one.
            self.earlier = EMA(self.backbone, 0.0, backend=self.backend)

    def besides(self, large: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        classes, patches, ahead = tokens[:, 0], tokens[:, self.backbone.ahead :], self.backbone.ahead
        if not self.gram or not self.earlier.updates:
            return classes, patches[:0], patches[:0].detach()
        with torch.no_grad():
            seen = self.earlier.module.tokens(large)  # type: ignore[operator]
        return classes, patches, seen[:, ahead:]

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        classes, patches, seen, *own = embeddings
        value, biases = super().compared(*own)
        if self.koleo:
            views = classes.chunk(2)
            value = value + self.koleo * sum(koleo(view, group=self.group, backend=self.backend) for view in views)
        if len(seen):
            shard = shard_of(self.group, "DINOv2", patches)
            # The mean over ranks is that of the images of all ranks.
            share = shard.ranks * len(patches) / shard.total(len(patches))
            value = value + self.gram * share * gram_loss(patches, seen, backend=self.backend)
        return value, biases

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if not self.gram or share_done(step + 1, total_steps) < self.gram_from:
            return
        if not self.earlier.updates or step - self.earlier.step >= self.gram_every:
            vit, *_ = self.teacher.module.children()
            self.earlier.update(vit, step)
