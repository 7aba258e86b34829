# SPDX-License-Identifier: Apache-2.0
"""iBOT: DINO, and hidden patches are assigned to prototypes as the teacher assigns them where they are seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sslkernels.arguments import (
    came,
    check_choice,
    check_flag,
    check_kind,
    check_list,
    check_number,
    check_range,
    check_size,
    shape_of,
)
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional import prototype_cross_entropy, sinkhorn_bias
from sslkernels.methods.dino import DINO
from sslkernels.methods.hidden_patches import Shape, hidden_patches
from sslkernels.methods.method import in_one_pass
from sslkernels.methods.prototyped import STEADIED, WATCHED, usage
from sslkernels.models import DINOHead, ViT
from sslkernels.state import Center


class IBOT(DINO):
    """iBOT: Image BERT Pre-Training with Online Tokenizer. Zhou et al., ICLR 2022.

    DINO's loss on class tokens, where patches of the student's two large views are hidden, plus the mean over these
    views and all samples of the mean over the hidden patches i of a sample of

        -sum_k P_ik log softmax(s_i V^T / temperature)_k,   P_i = softmax((t_i V'^T - center) / teacher_temperature)

    with the student's and the teacher's rows s_i, t_i of the same patch of the same view, prototypes V and a centre of
    their own.

    Args:
        backbone: a ViT with a class token and a mask token, and ``any_size`` where views are of several sizes. The two
            large views have its own size.
        feature_dim, prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`.
        warmup, center_momentum, momentum, final_momentum, freeze, last, batch_norm, backend, group: as in `DINO`.
        shared_head: take one head for class tokens and patches; otherwise patches have one of their own.
        patch_head: prototypes, hidden_dim and projection_dim of that head. Those left out are the other head's.
        mask_ratio: least and largest share of the patches that are hidden in an image.
        mask_probability: share of the images in which patches are hidden.
        mask_shape: "block" hides blocks as iBOT and DINOv2 do, "random" hides patches one by one.
        centering: "center", or "sinkhorn", which spreads the teacher's rows of a step over the prototypes (DINOv2).

    As in DINOv2, in every step as many images have hidden patches, and their shares lie evenly in ``mask_ratio``, so
    that no shape depends on what is drawn; only hidden patches enter heads and centre. Where blocks leave a part of an
    image's share, that part is drawn one by one, as in DINOv3.

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
        "epochs": 25, "batch_size": 32, "lr": 3e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 64,
        "momentum": 0.98, "batch_norm": True, "teacher_temperature": (0.04, 0.04),
        "centering": "sinkhorn",
    }  # fmt: skip
    paper_options = {"epochs": 800, "batch_size": 1024, "lr": 2e-3, **STEADIED}

    def __init__(
        self,
        backbone: ViT,
        *,
        feature_dim: int,
        prototypes: int = 8192,
        shared_head: bool = True,
        patch_head: tuple[int, ...] = (),
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_probability: float = 0.5,
        mask_shape: Literal["block", "random"] = "block",
        centering: Literal["center", "sinkhorn"] = "center",
        **options: Any,
    ) -> None:
        super().__init__(backbone, feature_dim=feature_dim, prototypes=prototypes, **options)
        name = type(self).__name__
        vit = check_kind(name, "backbone", backbone, ViT, "a sslkernels.models.ViT with class token and mask token")
        if not vit.class_token or vit.mask_token is None:
            raise ValueError(f"{name}: backbone has no class token or no mask token; make it with both.")
        self.mask_ratio = check_range(name, "mask_ratio", mask_ratio, most=1)
        self.mask_probability = check_number(name, "mask_probability", mask_probability, above=0, most=1)
        self.mask_shape = cast(Shape, check_choice(name, "mask_shape", mask_shape, ("block", "random")))
        self.centering = check_choice(name, "centering", centering, ("center", "sinkhorn"))
        sizes = [
            check_size(name, "patch_head", size)
            for size in check_list(name, "patch_head", patch_head, "prototypes, hidden_dim and projection_dim")
        ]
        shared = check_flag(name, "shared_head", shared_head)
        if len(sizes) > 3 or (sizes and shared):
            why = "shared_head is True" if shared else "it has more numbers than prototypes, hidden_dim, projection_dim"
            raise ValueError(f"{name}: patch_head is {came(patch_head)} and {why}; leave it out, or some of it.")
        if not shared:
            own: dict[str, Any] = dict(zip(("out_dim", "hidden_dim", "bottleneck_dim"), sizes, strict=False))
            self.patch_projector = self.head(**{"out_dim": prototypes, **own})
            self.teach(self.teacher.momentum, self.teacher.final_momentum)
        self.patch_center = Center(len(self.heads[-1].weight), self.center.momentum)

    def check_views(self, views: Sequence[Tensor]) -> None:
        vit = self.backbone
        size = tuple(side * vit.patch_size for side in vit.grid)
        for place, view in enumerate(views[:2]):
            if view.shape[2:] != size:
                raise ValueError(
                    f"{type(self).__name__}: views[{place}] has shape {shape_of(view)} and the backbone was made for "
                    f"images of {size[0]}x{size[1]}; pass two large views of that size first."
                )

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
        self.check_views(views)
        large = torch.cat(views[:2])
        mask, places, weight = self.hide(len(large), large.device)
        tokens = self.backbone.tokens(large, hidden=mask)
        features = torch.cat([tokens[:, 0], *in_one_pass(self.features, views[2:])])
        student = self.projector(features).chunk(len(views))
        with torch.no_grad():
            vit, head, *_ = cast(nn.Sequential, self.teacher.module)
            seen = vit.tokens(large)
            teacher, targets = head(seen[:, 0]).chunk(2), self.patch_teacher(self._patches(seen)[places])
        if self.training:
            self.center.collect(torch.cat(teacher))
            self.patch_center.collect(targets)
        besides = self.besides(large, tokens)
        embeddings = (*besides, *student, *teacher, self.heads[-1](self._patches(tokens)[places]), targets, weight)
        loss, biases = self.compared(*embeddings)
        return {"loss": loss, "embeddings": embeddings, **self.watched(biases, teacher[0], targets)}

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        *own, rows, targets, weight = embeddings
        loss, biases = super().compared(*own)
        bias = self.bias(self.patch_center, targets, self.patch_teacher.weight, self.group)
        of_patches = prototype_cross_entropy(
            rows,
            self.heads[-1].weight,
            targets,
            self.patch_teacher.weight,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
            bias=bias,
            row_weight=weight,
            backend=self.backend,
        )
        return loss + of_patches, (*biases, bias)

    def bias(self, center: Center, teacher: Tensor, weight: Tensor, group: GroupLike) -> Tensor:
        """Give what is added to the logits of the teacher's rows: the centre, taken off, or what spreads them."""
        if self.centering == "center":
            return super().bias(center, teacher, weight, group)
        return sinkhorn_bias(teacher, weight, self.teacher_temperature, group=group, backend=self.backend)

    def watched(self, biases: Sequence[Tensor], teacher: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        found = super().watched(biases, teacher)
        if targets is None:
            return found
        some = targets[:: -(-len(targets) // WATCHED)]  # of many images
        patches = usage(some, self.patch_teacher.weight, self.teacher_temperature, biases[1])
        return found | {f"patch_{name}": value for name, value in patches.items()}

    def besides(self, large: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """Give what the loss of a subclass takes besides, of the large views and the student's tokens of them."""
        return ()

    def hide(self, images: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draw which patches of so many images are hidden.

        Returns:
            ``(images, L)``, bool; the hidden patches' places among all ``images * L``, and their weights in the loss.
        """
        grid, shape = self.backbone.grid, self.mask_shape
        drawn = hidden_patches(images, grid, self.mask_ratio, self.mask_probability, shape, device)
        # The mean over ranks is that of the images of all ranks.
        shard = shard_of(self.group, type(self).__name__, drawn.mask)
        return drawn.mask, drawn.places, drawn.share * (shard.ranks / shard.total(images))

    def after_step(self, step: int, total_steps: float) -> None:
        self.patch_center.update(self.patch_teacher.weight, group=self.group)
        super().after_step(step, total_steps)

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.backbone.ahead :].flatten(0, 1)
