# SPDX-License-Identifier: Apache-2.0
"""MOKD: a transformer and a convolutional network learn by DINO, each from its own teacher and from the other's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_flag, check_kind, check_size, check_weights
from sslkernels.functional import prototype_cross_entropy
from sslkernels.methods.dino import DINO
from sslkernels.methods.prototyped import followed, row_weight
from sslkernels.models import ResNet, Transformer, ViT, resnet_small
from sslkernels.models.vit import positions_between
from sslkernels.prototypes import Prototypes
from sslkernels.state import Center

# Tensors that the loss has of each network: the student's rows of two heads, the teacher's, and what it searched.
EACH = 5


class Searching(DINO):
    """DINO with a second head, of which the teacher has a copy: a transformer over the places of a ResNet or a ViT."""

    def add_search(self, vit: ViT, depth: int) -> None:
        """Make the second head, as wide as ``vit``. All crops have their positions over that one's patches."""
        prototypes = len(self.projector.weight)
        sizes: dict[str, Any] = {"depth": depth, "heads": vit.heads, "ground": vit.grid}
        self.search = SearchHead(self.feature_dim, vit.width, prototypes, **sizes)
        self.search_center = Center(prototypes, self.center.momentum)
        self.teach(self.teacher.momentum, self.teacher.final_momentum)

    @property
    def online(self) -> nn.Sequential:
        """Backbone and heads, of which the teacher has a copy; they are no chain."""
        return nn.Sequential(self.backbone, self.projector, *([self.search] if hasattr(self, "search") else []))

    @property
    def last_layers(self) -> list[Prototypes]:
        return [*super().last_layers, self.search.last_layer]

    @property
    def search_weight(self) -> Tensor:
        """The teacher's prototypes ``(prototypes, width)`` of the second head."""
        return cast(SearchHead, cast(nn.Sequential, self.teacher.module)[2]).last_layer.weight

    def learn(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the student's rows of both heads, one view after another, and what small views search with."""
        looks = [look(self.backbone, torch.cat(part)) for part in (views[:2], views[2:]) if part]
        rows = self.projector(torch.cat([feature for feature, _, _ in looks]))
        searched = torch.cat([self.search(places, grid) for _, places, grid in looks])
        feature, places, _ = looks[-1]
        query = feature if isinstance(self.backbone, ViT) else self.search.reduce(places).mean(1)
        query = query if views[2:] else query[:0]
        return rows, searched, query.detach()

    @torch.no_grad()
    def answer(self, views: Sequence[Tensor], query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the teacher's rows of both heads for large views, and what it finds in the first with each query."""
        backbone, head, search = cast(nn.Sequential, self.teacher.module)
        feature, places, grid = look(backbone, torch.cat(list(views[:2])))
        rows, searched = head(feature), search(places, grid)
        first = places[: len(places) // 2].repeat(len(query) * 2 // len(places), 1, 1)
        if self.training:
            self.center.collect(rows)
            self.search_center.collect(searched)
        return rows, searched, search(first, grid, query) if len(query) else searched[:0]

    def distil(
        self, student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, center: Center | None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute DINO's loss between rows of all views and of the teacher's two, and what is added to its logits.

        Without centre nothing is, and the rows are of the same views.
        """
        count = len(teacher) // 2 if center is not None else len(student)
        views = student.split(count)
        terms = 2 * len(views) - 2 if center is not None else 1
        bias = None if center is None else self.bias(center, teacher, teacher_weight, self.group)
        loss = prototype_cross_entropy(
            student,
            weight,
            teacher,
            teacher_weight,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
            bias=bias,
            row_weight=row_weight(type(self).__name__, views, terms, self.group),
            teacher_index=None if center is None else followed(len(views), teacher[:count]),
            backend=self.backend,
        )
        return loss, bias

    def after_step(self, step: int, total_steps: float) -> None:
        self.search_center.update(self.search_weight, group=self.group)
        super().after_step(step, total_steps)


class MOKD(Searching):
    """Multi-Mode Online Knowledge Distillation for Self-Supervised Visual Representation Learning. Song et al., 2023.

    Two networks m learn together, n being the other. With ``D(s, t)`` the loss of DINO between a student's rows of all
    views and a teacher's of the large ones, the sum over m of

        D(s_m, t_m) + D(S_m, T_m) + cross_weight * [D(s_m, t_n) + H(F_n, S_m)]

    where s, t are rows of DINO's head and S, T of a transformer over the places of a view. F_n is what the teacher's
    transformer of n finds for each small view: it sees the places of the first large view, and beside them a token of
    the small view, the feature of m's student. H is the cross-entropy with what F_n is assigned to without a centre.

    Args:
        backbone: a ViT with a class token, and ``any_size`` where views are of several sizes. It is what you keep.
        feature_dim: features of the backbone.
        second: a ResNet, the other network, which is ``method.other.backbone``; None makes a small one.
        prototypes, hidden_dim, projection_dim, temperature, teacher_temperature: as in `DINO`, for both.
        warmup, center_momentum, momentum, final_momentum, freeze, last, backend, group: as in `DINO`.
        batch_norm: as in `DINO`, of the head on the ResNet.
        search_depth: blocks of the transformers, which have the backbone's width and heads.
        cross_weight: weight of what a network learns from the other.

    Without small views nobody searches. `forward` gives besides how both teachers use the prototypes; names of the
    second's figures begin with ``second_``. Positions in the transformers are fixed, where the official code learns
    them, and both networks have one rate.

    >>> import torch
    >>> from sslkernels.methods import MOKD
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=1, class_token=True, any_size=True)
    >>> method = MOKD(vit, feature_dim=32, prototypes=64, hidden_dim=32, projection_dim=16, search_depth=1)
    >>> views = torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8), torch.rand(8, 1, 4, 4)
    >>> method(views)["loss"].shape
    torch.Size([])
    """

    paper = "Song et al. 2023"
    arxiv = "2304.06461"
    seeds = (12,)
    encoder = "tokens"
    small = {
        "epochs": 20, "batch_size": 32, "lr": 3e-3, "prototypes": 64, "hidden_dim": 256, "projection_dim": 64,
        "momentum": 0.98, "search_depth": 1, "batch_norm": True, "teacher_temperature": (0.04, 0.04),
    }  # fmt: skip
    # The official code clips the gradients of the ResNet alone.
    paper_options = {
        "epochs": 100, "batch_size": 256, "lr": 5e-4, "weight_decay": 0.04, "final_weight_decay": 0.4,
        "teacher_temperature": (0.04, 0.04),
    }  # fmt: skip

    def __init__(
        self,
        backbone: ViT,
        *,
        feature_dim: int,
        second: nn.Module | None = None,
        batch_norm: bool = False,
        search_depth: int = 3,
        cross_weight: float = 1.0,
        **options: Any,
    ) -> None:
        vit = check_kind("MOKD", "backbone", backbone, ViT, "a sslkernels.models.ViT with class token")
        if not vit.class_token:
            raise ValueError("MOKD: backbone has no class token; make it with one.")
        super().__init__(vit, feature_dim=feature_dim, **options)
        batch_norm = check_flag("MOKD", "batch_norm", batch_norm)
        search_depth = check_size("MOKD", "search_depth", search_depth)
        (self.cross_weight,) = check_weights("MOKD", cross_weight=cross_weight)
        self.add_search(vit, search_depth)
        expected = "a sslkernels.models.ResNet, which gives the features of each place"
        second = resnet_small(vit.in_channels) if second is None else second
        resnet = check_kind("MOKD", "second", second, ResNet, expected)
        self.other = Searching(resnet, feature_dim=resnet.feature_dim, batch_norm=batch_norm, **options)
        self.other.add_search(vit, search_depth)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        views = self.any_views(views)
        sides: tuple[Searching, Searching] = (self, self.other)
        (*mine, query), (*theirs, other_query) = (side.learn(views) for side in sides)
        taught = self.answer(views, other_query), self.other.answer(views, query)
        embeddings = *mine, *taught[0], *theirs, *taught[1]
        loss, biases = self.compared(*embeddings)
        figures = [
            side.watched([bias], rows[0][: len(views[0])])
            for side, bias, rows in zip(sides, biases, taught, strict=True)
        ]
        named = figures[0] | {f"second_{name}": value for name, value in figures[1].items()}
        return {"loss": loss, "embeddings": embeddings, **named}

    def compared(self, *embeddings: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        mine, theirs = embeddings[:EACH], embeddings[EACH:]
        first, bias = self._side(self, mine, self.other, theirs)
        second, other_bias = self._side(self.other, theirs, self, mine)
        return first + second, (bias, other_bias)

    def _side(
        self, one: Searching, rows: Sequence[Tensor], other: Searching, others: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Compute what one network loses to both teachers, and what is added to the logits of its own."""
        student, searched, teacher, teacher_searched, _ = rows
        _, _, other_teacher, _, found = others
        weight, search_weight = one.projector.weight, one.search.last_layer.weight
        loss, bias = one.distil(student, weight, teacher, one.teacher_weight, one.center)
        loss = loss + one.distil(searched, search_weight, teacher_searched, one.search_weight, one.search_center)[0]
        cross, _ = one.distil(student, weight, other_teacher, other.teacher_weight, other.center)
        if len(found):
            small = searched[-len(found) :]
            cross = cross + one.distil(small, search_weight, found, other.search_weight, None)[0]
        return loss + self.cross_weight * cross, cast(Tensor, bias)

    def before_step(self, step: int, total_steps: float) -> None:
        super().before_step(step, total_steps)
        self.other.before_step(step, total_steps)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.other.after_step(step, total_steps)

    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """Compute how both teachers use the prototypes for samples as they are."""
        second = self.other.scores(inputs, labels)
        return super().scores(inputs, labels) | {f"second_{name}": value for name, value in second.items()}


class SearchHead(nn.Module):
    """A transformer over places, whose mean meets prototypes; a token of what is sought may stand beside them."""

    def __init__(
        self, channels: int, width: int, prototypes: int, *, depth: int, heads: int, ground: tuple[int, int]
    ) -> None:
        super().__init__()
        self.ground = ground
        self.reduce = nn.Identity() if channels == width else nn.Linear(channels, width)
        self.encode = Transformer(width, depth=depth, heads=heads)
        self.last_layer = Prototypes(width, prototypes, kind="scaled")

    def forward(self, places: Tensor, grid: tuple[int, int], query: Tensor | None = None) -> Tensor:
        """Map places ``(N, L, channels)`` of a grid, and queries ``(N, width)``, to rows ``(N, width)``."""
        x = self.reduce(places)
        x = x + positions_between(self.ground, grid, x[0])
        if query is None:
            return self.encode(x).mean(1)
        return self.encode(torch.cat([query[:, None], x], 1))[:, 1:].mean(1)


def look(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Compute features ``(N, C)`` of images, those of each place ``(N, L, C)``, and the rows and columns of these."""
    if isinstance(backbone, ViT):
        tokens, patch = backbone.tokens(images), backbone.patch_size
        return tokens[:, 0], tokens[:, backbone.ahead :], (images.shape[2] // patch, images.shape[3] // patch)
    grid = cast(ResNet, backbone).feature_grid(images)
    return grid.mean((2, 3)), grid.flatten(2).mT, (grid.shape[2], grid.shape[3])
