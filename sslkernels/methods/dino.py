# SPDX-License-Identifier: Apache-2.0
"""DINO: assign crops of an image to prototypes as a slower copy of the network assigns the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sslkernels.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_range,
    check_temperature,
    check_widths,
)
from sslkernels.distributed import GroupLike
from sslkernels.functional import prototype_cross_entropy
from sslkernels.methods.method import Method, Taught, in_one_pass
from sslkernels.methods.prototyped import STEADIED, followed, row_weight, usage
from sslkernels.models import DINOHead
from sslkernels.models.dino_head import LASTS
from sslkernels.ops.prototypes import PROTOTYPES
from sslkernels.prototypes import Prototypes
from sslkernels.schedules import share_done
from sslkernels.state import EMA, Center


class DINO(Taught):
    """Emerging Properties in Self-Supervised Vision Transformers. Caron et al., ICCV 2021.

    With student rows s, teacher rows t, and views u of the first two, which the teacher sees: the mean over pairs of
    unlike views (u, v) and samples of

        -sum_k P_k log softmax(s_v W^T / temperature)_k,   P = softmax((t_u W'^T - center) / teacher_temperature)

    Args:
        backbone: images of every size that views have to features ``(N, feature_dim)``.
        feature_dim: features of the backbone.
        prototypes, hidden_dim, projection_dim: sizes of the head; see `sslkernels.models.DINOHead`.
        temperature: temperature of the student.
        teacher_temperature: of the teacher, at first and after the warm-up; it rises evenly meanwhile.
        warmup: the share of the training that this takes.
        center_momentum: share of the old centre that a step keeps; see `sslkernels.Center`.
        momentum, final_momentum: momentum of the teacher at the first step, and at the end; it rises in half a cosine.
        freeze: the share of the training in which the prototypes stand still, at its begin: the paper's first epoch.
            Where no end is known, none.
        last: "unit" keeps prototypes at length 1, "scaled" trains their lengths, "linear" their numbers one by one.
        batch_norm: normalise the head's hidden layers over the batch; see `sslkernels.models.DINOHead`.
        backend, group: see `Method`.

    `forward` takes two views or more; views of one size go through the network together. It gives besides how the
    teacher uses the prototypes, which a run logs: ``teacher_entropy``, ``largest_probability``, ``largest_share`` and
    ``effective_prototypes``.

    >>> import torch
    >>> from sslkernels.methods import DINO
    >>> from sslkernels.models import resnet_small
    >>> method = DINO(resnet_small(), feature_dim=128, prototypes=512, hidden_dim=64, projection_dim=32)
    >>> views = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16), torch.rand(8, 1, 8, 8)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Caron et al. 2021"
    arxiv = "2104.14294"
    family = PROTOTYPES
    views = None
    small = {
        "epochs": 25, "batch_size": 64, "lr": 2e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 64,
        "momentum": 0.99, "batch_norm": True,
    }  # fmt: skip
    paper_options = {"epochs": 100, "batch_size": 1024, "lr": 2e-3, **STEADIED}
    whole_views = True
    projector: DINOHead
    teacher_temperature: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        prototypes: int = 65536,
        hidden_dim: int = 2048,
        projection_dim: int = 256,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        warmup: float = 0.3,
        center_momentum: float = 0.9,
        momentum: float = 0.996,
        final_momentum: float = 1.0,
        freeze: float = 0.01,
        last: Literal["unit", "scaled", "linear"] = "unit",
        batch_norm: bool = False,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        name, feature_dim = type(self).__name__, self.check_feature_dim(feature_dim)
        _, hidden_dim, projection_dim = check_widths(
            name, feature_dim=feature_dim, hidden_dim=hidden_dim, projection_dim=projection_dim
        )
        prototypes = check_count(name, "prototypes", prototypes, projection_dim)
        self.temperature = check_temperature(name, temperature)
        self.ends = check_range(name, "teacher_temperature", teacher_temperature)
        self.warmup = check_number(name, "warmup", warmup, least=0, most=1)
        self.freeze = check_number(name, "freeze", freeze, least=0, most=1)
        momentum = check_number(name, "momentum", momentum, least=0, most=1)
        final_momentum = check_number(name, "final_momentum", final_momentum, least=0, most=1)
        check_choice(name, "last", last, LASTS)
        norm = check_flag(name, "batch_norm", batch_norm)
        # Makes a head of so many prototypes, of which a subclass may want a second one.
        self.head = partial(
            DINOHead, feature_dim, hidden_dim=hidden_dim, bottleneck_dim=projection_dim, batch_norm=norm, last=last
        )
        self.projector = self.head(prototypes)
        self.center = Center(prototypes, check_number(name, "center_momentum", center_momentum, least=0, most=1))
        self.teach(momentum, final_momentum)
        self.register_buffer("teacher_temperature", torch.tensor(self.teacher_temperature_at(0.0), dtype=torch.float64))

    def teach(self, momentum: float, final_momentum: float) -> None:
        """Make the teacher a copy of the student as it is now."""
        self.teacher = EMA(
            self.online, momentum, schedule="cosine", final_momentum=final_momentum, backend=self.backend
        )

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        student = self.projector(torch.cat(self.features_of(views))).chunk(len(views))
        teacher = in_one_pass(self.taught, views[:2])
        if self.training:
            for rows in teacher:
                self.center.collect(rows)
        embeddings = (*student, *teacher)
        loss, biases = self.compared(*embeddings)
        return {"loss": loss, "embeddings": embeddings, **self.watched(biases, teacher[0])}

    def loss(self, *embeddings: Tensor) -> Tensor:
        return self.compared(*embeddings)[0]

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Compute the loss, and what is added to the logits of the teacher's rows."""
        *student, first, second = embeddings
        teacher = torch.cat([first, second])
        bias = self.bias(self.center, teacher, self.teacher_weight, self.group)
        loss = prototype_cross_entropy(
            torch.cat(student),
            self.projector.weight,
            teacher,
            self.teacher_weight,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
            bias=bias,
            row_weight=row_weight(type(self).__name__, student, 2 * len(student) - 2, self.group),
            teacher_index=followed(len(student), first),
            backend=self.backend,
        )
        return loss, (bias,)

    def bias(self, center: Center, teacher: Tensor, weight: Tensor, group: GroupLike) -> Tensor:
        """Give what is added to the logits of the teacher's rows ``(N, projection_dim)``: the centre, taken off."""
        center.agree(group)
        return center.bias(self.teacher_temperature)

    @property
    def heads(self) -> list[DINOHead]:
        """The student's heads."""
        return [self.projector]

    @property
    def last_layers(self) -> list[Prototypes]:
        """Name the layers that hold the student's prototypes."""
        return [head.last_layer for head in self.heads]

    @torch.no_grad()
    def taught(self, view: Tensor) -> Tensor:
        """Compute the teacher's rows ``(N, projection_dim)`` of a view."""
        backbone, head, *_ = cast(nn.Sequential, self.teacher.module)
        return head(backbone(view))

    @property
    def teacher_weight(self) -> Tensor:
        """The teacher's prototypes ``(prototypes, projection_dim)``."""
        return cast(DINOHead, cast(nn.Sequential, self.teacher.module)[1]).weight

    def teacher_temperature_at(self, share: float) -> float:
        """The temperature of the teacher when ``share`` of the training is done."""
        first, last = self.ends
        return last if share >= self.warmup else first + (last - first) * share / self.warmup

    def before_step(self, step: int, total_steps: float) -> None:
        if step < self.freeze * total_steps < torch.inf:
            for layer in self.last_layers:
                layer.freeze()

    def after_step(self, step: int, total_steps: float) -> None:
        Method.after_step(self, step, total_steps)
        self.center.update(self.teacher_weight, group=self.group)  # the teacher's rows are those of this weight
        super().after_step(step, total_steps)
        self.teacher_temperature.fill_(self.teacher_temperature_at(share_done(step + 1, total_steps)))

    def watched(self, biases: Sequence[Tensor], teacher: Tensor) -> dict[str, Tensor]:
        """Measure how the teacher's rows of a view use the prototypes."""
        return usage(teacher, self.teacher_weight, self.teacher_temperature, biases[0])

    @torch.no_grad()
    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """Compute how the teacher uses the prototypes for samples as they are."""
        teacher = self.taught(inputs)
        bias = self.bias(self.center, teacher, self.teacher_weight, None)  # other ranks may have ended
        return {name: value.item() for name, value in self.watched([bias], teacher).items()}
