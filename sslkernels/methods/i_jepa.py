# SPDX-License-Identifier: Apache-2.0
"""I-JEPA: predict, from one part of an image, the features that a teacher has of other parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_transformer
from sslkernels.distributed import GroupLike
from sslkernels.functional import apply_masks, block_masks, masked_smooth_l1
from sslkernels.methods.method import Masked
from sslkernels.models import Transformer, ViT, sincos_positions
from sslkernels.state import EMA


class IJEPA(Masked):
    """Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture. Assran et al., CVPR 2023.

    The backbone is the context encoder; ``teacher``, the target encoder, follows it as an exponential moving average.

    Args:
        backbone: encodes the context's patches alone. Contexts are some 12 % longer than those of the official
            collator; `sslkernels.functional.block_masks` says why.
        predictor_width, predictor_depth: size of the transformer that predicts; it is narrow, as in the paper.
        momentum: momentum of the teacher at the first step; it rises to 1 in a straight line.
        backend: see `Method`.
        group: see `Method`. No image is compared with another, so ranks have nothing to exchange.

    >>> import torch
    >>> from sslkernels.methods import IJEPA
    >>> from sslkernels.models import ViT
    >>> method = IJEPA(ViT((8, 8), patch_size=2, width=32, depth=2))
    >>> method([torch.rand(16, 1, 8, 8)])["loss"].shape
    torch.Size([])
    """

    paper = "Assran et al. 2023"
    arxiv = "2301.08243"
    seeds = (2,)
    small = {"epochs": 60, "batch_size": 64, "lr": 1e-3, "momentum": 0.9995}
    paper_options = {"epochs": 300, "batch_size": 2048, "lr": 1e-3, "patch_size": 16}

    pos: Tensor

    def __init__(
        self,
        backbone: ViT,
        *,
        predictor_width: int = 64,
        predictor_depth: int = 1,
        momentum: float = 0.996,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        predictor_width, predictor_depth = check_transformer(
            "IJEPA", backbone.heads, predictor_width=predictor_width, predictor_depth=predictor_depth
        )
        momentum = check_number("IJEPA", "momentum", momentum, least=0, most=1)
        self.teacher = EMA(backbone, momentum, schedule="linear", backend=backend)
        # The official code keeps at least 10 of 14x14 tokens; a small grid keeps a quarter.
        self.min_keep = max(1, min(10, backbone.length // 4))
        self.predictor_embed = nn.Linear(backbone.width, predictor_width)
        self.mask_token = nn.Parameter(torch.randn(predictor_width) * 0.02)
        self.predictor = Transformer(predictor_width, depth=predictor_depth, heads=backbone.heads)
        self.predictor_out = nn.Linear(predictor_width, backbone.width)
        self.register_buffer("pos", sincos_positions(*backbone.grid, predictor_width), persistent=False)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        images = self.one_view(views)
        (context,), targets = block_masks(
            len(images), *self.backbone.grid, min_keep=self.min_keep, device=images.device
        )
        pred = self.predict(images, context, targets)
        with torch.no_grad():
            tokens = self.teacher.module.encode(self.teacher.module.embed(images))
            target = apply_masks(tokens, targets, backend=self.backend)
        return {"loss": self.loss(pred, target), "embeddings": (pred, target)}

    def loss(self, pred: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return masked_smooth_l1(pred, target, normalize_target=True, backend=self.backend)

    def predict(self, images: Tensor, context: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Predict the teacher's tokens ``(M N, K, width)`` at M ``targets (N, K)`` from the patches of ``context``."""
        seen = self.backbone.encode(self.backbone.embed(images, context, backend=self.backend))
        seen = self.predictor_embed(seen) + self.pos[context]
        asked = self.mask_token + self.pos[torch.cat(list(targets))]
        tokens = torch.cat([seen.repeat(len(targets), 1, 1), asked], 1)
        return self.predictor_out(self.predictor(tokens)[:, seen.shape[1] :])

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.teacher.update(self.backbone, step, total_steps)
