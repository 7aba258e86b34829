# SPDX-License-Identifier: Apache-2.0
"""iBOT: DINO, and hidden patches are assigned to prototypes as the teacher assigns them where they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_choice, check_flag, check_kind, check_number, check_range
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional import prototype_cross_entropy, sinkhorn_bias
from sslkernels.methods.dino import DINO
from sslkernels.methods.method import in_one_pass
from sslkernels.models import DINOHead, ViT
from sslkernels.ops.dtypes import wide
from sslkernels.state import EMA, Center


class IBOT(DINO):
    """iBOT: Image BERT Pre-Training with Online Tokenizer. Zhou et al., ICLR 2022.

    DINO's loss on class tokens, where patches of the student's two large views are hidden, plus the mean over these
    views and all samples of the mean over the hidden patches i of a sample of

        -sum_k P_ik log softmax(s_i V^T / temperature)_k,   P_i = softmax((t_i V'^T - center) / teacher_temperature)

    with the student's and the teacher's rows s_i, t_i of the same patch of the same view, prototypes V and a centre of
    their own.

    Args:
        backbone: a ViT with a class token and a mask token, and ``any_size`` where views are of several sizes.
        feature_dim, prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`.
        warmup, center_momentum, momentum, freeze, norm_last, backend, group: as in `DINO`.
        shared_head: take one head for class tokens and patches; otherwise patches have one of the same sizes.
        mask_ratio: least and largest share of the patches that are hidden in an image.
        mask_probability: share of the images in which patches are hidden.
        centering: "center", or "sinkhorn", which spreads the teacher's rows of a step over the prototypes (DINOv2).

    As in DINOv2, in every step as many images have hidden patches, and their shares lie evenly in ``mask_ratio``, so
    that no shape depends on what is drawn; only hidden patches enter heads and centre. Which patches are hidden is
    drawn one by one, and not in blocks.

    >>> import torch
    >>> from sslkernels.methods import IBOT
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, mask_token=True, any_size=True)
    >>> method = IBOT(vit, feature_dim=32, prototypes=64, hidden_dim=32, projection_dim=16)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Zhou et al. 2022"
    arxiv = "2111.07832"
    encoder = "tokens"
    backbone: ViT
    small = {
        "epochs": 25, "batch_size": 64, "lr": 1e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 64,
        "momentum": 0.99,
    }  # fmt: skip
    paper_options = {"epochs": 800, "batch_size": 1024, "lr": 1e-3}

    def __init__(
        self,
        backbone: ViT,
        *,
        feature_dim: int,
        prototypes: int = 8192,
        hidden_dim: int = 2048,
        projection_dim: int = 256,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.3,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        freeze: float = 0.01,
        norm_last: bool = True,
        shared_head: bool = True,
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_probability: float = 0.5,
        centering: Literal["center", "sinkhorn"] = "center",
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(
            backbone, feature_dim=feature_dim, prototypes=prototypes, hidden_dim=hidden_dim,
            projection_dim=projection_dim, temperature=temperature, teacher_temperature=teacher_temperature,
            warmup=warmup, center_momentum=center_momentum, momentum=momentum, freeze=freeze, norm_last=norm_last,
            backend=backend, group=group,
        )  # fmt: skip
        vit = check_kind("IBOT", "backbone", backbone, ViT, "a sslkernels.models.ViT with class token and mask token")
        if not vit.class_token or vit.mask_token is None:
            raise ValueError("IBOT: backbone has no class token or no mask token; make it with both.")
        self.mask_ratio = check_range("IBOT", "mask_ratio", mask_ratio, most=1)
        self.mask_probability = check_number("IBOT", "mask_probability", mask_probability, above=0, most=1)
        self.centering = check_choice("IBOT", "centering", centering, ("center", "sinkhorn"))
        self.patch_center = Center(prototypes, center_momentum)
        if not check_flag("IBOT", "shared_head", shared_head):
            self.patch_projector = DINOHead(
                feature_dim, prototypes, hidden_dim=hidden_dim, bottleneck_dim=projection_dim, last=self.last
            )
            self.teacher = EMA(self.online, momentum, schedule="cosine", backend=backend)

    @property
    def heads(self) -> list[DINOHead]:
        """The student's head of class tokens, and that of patches if they have one of their own."""
        return [self.projector, *([self.patch_projector] if hasattr(self, "patch_projector") else [])]

    @property
    def online(self) -> nn.Sequential:
        """Backbone and heads, of which the teacher has a copy; they are no chain."""
        return nn.Sequential(self.backbone, *self.heads)

    @property
    def patch_teacher(self) -> DINOHead:
        """The teacher's head of patches."""
        return cast(DINOHead, list(cast(nn.Sequential, self.teacher.module))[-1])

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        large = torch.cat(views[:2])
        hidden, places, weight = self.hide(len(large), large.device)
        tokens = self.backbone.tokens(large, hidden=hidden)
        features = torch.cat([tokens[:, 0], *in_one_pass(self.features, views[2:])])
        student = self.projector(features).chunk(len(views))
        with torch.no_grad():
            vit, head, *_ = cast(nn.Sequential, self.teacher.module)
            seen = vit.tokens(large)
            teacher, targets = head(seen[:, 0]).chunk(2), self.patch_teacher(self._patches(seen)[places])
        if self.training:
            self.center.collect(torch.cat(teacher))
            self.patch_center.collect(targets)
        embeddings = (*student, *teacher, self.heads[-1](self._patches(tokens)[places]), targets, weight)
        return {"loss": self.loss(*embeddings), "embeddings": embeddings, **self._usage(teacher[0])}

    def loss(self, *embeddings: Tensor) -> Tensor:
        *own, rows, targets, weight = embeddings
        return super().loss(*own) + prototype_cross_entropy(
            rows,
            self.heads[-1].weight,
            targets,
            self.patch_teacher.weight,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
            bias=self.bias(self.patch_center, targets, self.patch_teacher.weight),
            row_weight=weight,
            backend=self.backend,
        )

    def bias(self, center: Center, teacher: Tensor, weight: Tensor) -> Tensor:
        """Give what is added to the logits of the teacher's rows: the centre, taken off, or what spreads them."""
        if self.centering == "center":
            return super().bias(center, teacher, weight)
        return sinkhorn_bias(teacher, weight, self.teacher_temperature, group=self.group, backend=self.backend)

    def hide(self, images: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw which patches of so many images are hidden.

        Returns:
            ``(images, L)``, bool; the hidden patches' places among all ``images * L``, and their weights in the loss.
        """
        length, (low, high) = self.backbone.length, self.mask_ratio
        some = max(1, round(self.mask_probability * images))
        counts = [max(1, round(length * (low + (high - low) * (place + 0.5) / some))) for place in range(some)]
        repeats, total = torch.tensor(counts, device=device), sum(counts)
        image = torch.randperm(images, device=device)[:some].repeat_interleave(repeats, output_size=total)
        order = torch.rand(images, length, device=device).argsort(1)
        nth = torch.cat([torch.arange(count) for count in counts]).to(device)
        places = image * length + order[image, nth]
        hidden = torch.zeros(images * length, dtype=torch.bool, device=device)
        hidden[places] = True
        # The mean over ranks is that of the images of all ranks.
        shard = shard_of(self.group, "IBOT", order)
        weight = shard.ranks / (shard.total(images) * repeats.to(wide(next(self.projector.parameters()).dtype)))
        return hidden.view(images, length), places, weight.repeat_interleave(repeats, output_size=total)

    def after_step(self, step: int, total_steps: float) -> None:
        self.patch_center.update(self.patch_teacher.weight, group=self.group)
        super().after_step(step, total_steps)

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.backbone.ahead :].flatten(0, 1)
