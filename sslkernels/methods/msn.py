# SPDX-License-Identifier: Apache-2.0
"""MSN: assign an image with hidden patches, and small crops of it, as the whole image is assigned to prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_count,
    check_flag,
    check_kind,
    check_number,
    check_temperature,
    check_weights,
    check_widths,
)
from sslkernels.distributed import GroupLike
from sslkernels.functional import (
    logsumexp_similarity,
    mean_entropy,
    prototype_cross_entropy,
    random_masking,
    sinkhorn_bias,
)
from sslkernels.methods.method import Taught, in_one_pass
from sslkernels.methods.prototyped import STEADIED, row_weight, usage
from sslkernels.models import ProjectionHead, ViT
from sslkernels.ops.prototypes import PROTOTYPES
from sslkernels.ops.rows import unit_rows
from sslkernels.prototypes import Prototypes
from sslkernels.state import EMA


class MSN(Taught):
    """Masked Siamese Networks for Label-Efficient Learning. Assran et al., ECCV 2022.

    The teacher sees the first view whole, the student all others, the second one with hidden patches. With unit rows z,
    prototypes W of length 1 and ``p = softmax(z W^T / temperature)``, the mean over the student's views and samples of

        -sum_k T_k log p_k,   T = softmax(t W^T / (sharpen * temperature) + b)

    plus ``me_max * (log K - entropy of the mean of all p)``, so that all prototypes are used.

    Args:
        backbone: a ViT. It has ``any_size`` where views are of several sizes.
        feature_dim: features of the backbone.
        prototypes: number of prototypes, K.
        hidden_dim, projection_dim: widths of the projector, which has three layers.
        temperature: temperature of the student.
        sharpen: the share of it that is the teacher's.
        me_max: weight of the regulariser.
        mask_ratio: share of the second view's patches that are hidden.
        sinkhorn: let three rounds of Sinkhorn-Knopp find the b that spreads the targets over the prototypes, from
            targets that are normalised already; otherwise b is 0.
        momentum: momentum of the teacher at the first step; it rises to 1 in a line.
        backend, group: see `Method`. BatchNorm's statistics are each rank's own, unless it is synchronised.

    `forward` takes two views or more, and gives besides how the teacher uses the prototypes, which a run logs.
    The official code has GELU in the projector, and sets targets below 1e-4 to zero.

    >>> import torch
    >>> from sslkernels.methods import MSN
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, any_size=True)
    >>> method = MSN(vit, feature_dim=32, prototypes=64, hidden_dim=32, projection_dim=16)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Assran et al. 2022"
    arxiv = "2204.07141"
    family = PROTOTYPES
    views = None
    encoder = "tokens"
    whole_views = True
    backbone: ViT
    small = {
        "epochs": 40, "batch_size": 32, "lr": 3e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 64,
        "momentum": 0.99,
    }  # fmt: skip
    paper_options = {"epochs": 800, "batch_size": 1024, "lr": 1e-3, **STEADIED}

    def __init__(
        self,
        backbone: ViT,
        *,
        feature_dim: int,
        prototypes: int = 1024,
        hidden_dim: int = 2048,
        projection_dim: int = 256,
        temperature: float = 0.1,
        sharpen: float = 0.25,
        me_max: float = 1.0,
        mask_ratio: float = 0.15,
        sinkhorn: bool = True,
        momentum: float = 0.996,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name = type(self).__name__
        check_kind(name, "backbone", backbone, ViT, "a sslkernels.models.ViT, which encodes the patches it is given")
        feature_dim = self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            name, feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        prototypes = check_count(name, "prototypes", prototypes, projection_dim)
        self.temperature = check_temperature(name, temperature)
        self.sharpen = check_number(name, "sharpen", sharpen, above=0)
        (self.me_max,) = check_weights(name, me_max=me_max)
        self.mask_ratio = check_number(name, "mask_ratio", mask_ratio, least=0, most=1)
        self.sinkhorn = check_flag(name, "sinkhorn", sinkhorn)
        momentum = check_number(name, "momentum", momentum, least=0, most=1)
        self.projector = ProjectionHead(feature_dim, hidden_dim, projection_dim, layers=3)
        # The loss normalises them, so that no step has to.
        self.prototypes = Prototypes(projection_dim, prototypes, kind="sphere")
        self.teacher = EMA(self.online, momentum, schedule="linear", backend=backend)

    def check_views(self, views: Sequence[Tensor]) -> None:
        for view in self.any_views(views):
            self.backbone.embed(view[:1])

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        target, masked, *focal = self.any_views(views)
        kept, *_ = random_masking(len(masked), self.backbone.length, self.mask_ratio, device=masked.device)
        features = [self.backbone(masked, kept), *in_one_pass(self.features, focal)]
        rows = (*self._unit(self.projector(torch.cat(features))).chunk(len(features)), self._unit(self.teacher(target)))
        prototypes = self._unit(self.prototypes.weight)
        loss, bias = self._compared(rows, prototypes)
        return {"loss": loss, "embeddings": rows, **usage(rows[-1], prototypes, self.sharpen * self.temperature, bias)}

    def loss(self, *embeddings: Tensor) -> Tensor:
        return self._compared(embeddings, self._unit(self.prototypes.weight))[0]

    def _compared(self, rows: Sequence[Tensor], prototypes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the loss of the student's rows and the teacher's, which are last, and the bias of the targets."""
        *anchors, target = rows
        bias = self.bias(target, prototypes)
        weight = row_weight(type(self).__name__, anchors, len(anchors), self.group)
        assigned = prototype_cross_entropy(
            torch.stack(anchors),
            prototypes,
            target,
            temperature=self.temperature,
            teacher_temperature=self.sharpen * self.temperature,
            bias=bias,
            row_weight=None if weight is None else weight.view(len(anchors), -1),
            backend=self.backend,
        )
        return assigned + self.me_max * self._unused(torch.cat(anchors), prototypes), bias

    @torch.no_grad()
    def bias(self, target: Tensor, prototypes: Tensor) -> Tensor | None:
        """Find the bias of the prototypes that spreads targets of unit rows ``(N, projection_dim)``, or None."""
        if not self.sinkhorn:
            return None
        scale = 1 / (self.sharpen * self.temperature)
        # A further feature takes each row's log-sum-exp off its logits: they begin as logarithms of targets.
        lse = logsumexp_similarity(target, prototypes, scale, backend=self.backend).to(target.dtype)
        rows = torch.cat([target, -lse[:, None] / scale], 1)
        columns = torch.cat([prototypes, torch.ones_like(prototypes[:, :1])], 1)
        return sinkhorn_bias(rows, columns, 1 / scale, group=self.group, backend=self.backend)

    def _unused(self, rows: Tensor, prototypes: Tensor) -> Tensor:
        """Compute how far the mean assignment of unit rows, those of other ranks among them, is from the prior."""
        return mean_entropy(
            rows,
            prototypes,
            temperature=self.temperature,
            prior=self.prior,
            normalize=False,
            group=self.group,
            backend=self.backend,
        )

    @property
    def prior(self) -> Tensor | None:
        """How often each prototype is to be used, ``(prototypes,)``; None for all alike."""
        return None

    def _unit(self, rows: Tensor) -> Tensor:
        return unit_rows(rows, backend=self.backend)
