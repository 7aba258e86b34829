# SPDX-License-Identifier: Apache-2.0
"""CLIP: match each sample with its own text, sound or other form, among those of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_choice, check_kind, check_module, check_temperature, check_widths
from sslkernels.distributed import GroupLike
from sslkernels.functional import clip_loss, topk_similarity
from sslkernels.methods.method import Method
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.similarity import SIMILARITY

# The paper clips the factor of its cosines here, since training became unstable above.
LARGEST_SCALE = 100.0
# Own forms are looked for among so many nearest ones, as a share of which a retrieval is scored.
NEAREST = 10
ENCODED = 256


class CLIP(Method):
    """Learning Transferable Visual Models From Natural Language Supervision. Radford et al., ICML 2021.

    A sample has several forms, such as a picture, its name and how that is spoken, each with an encoder of its own and
    a linear map to ``projection_dim`` features. With unit rows ``u_a, u_b`` of two forms, the loss is the mean over the
    pairs of forms of ``clip_loss(u_a, u_b, s)``, in which the factor s is learned. Two forms make CLIP, more of them
    CMC (Tian et al., ECCV 2020): its full graph with ``pairs="all"``, and its core view with ``"first"``.

    Args:
        backbone: samples to features ``(N, feature_dim)``; its form is the first.
        feature_dim: features of the backbone.
        encoders: networks of the other forms, each with a ``feature_dim``, by the name under which `forward` takes
            their samples.
        projection_dim: features that the loss compares.
        temperature: 1 / s at first. s does not exceed 100.
        pairs: "all" pairs of forms, or those with the "first".
        backend, group: see `Method`.

    >>> import torch
    >>> from sslkernels.methods import CLIP
    >>> from sslkernels.models import TokenTransformer, resnet_small
    >>> method = CLIP(resnet_small(), feature_dim=128, encoders={"text": TokenTransformer(100, 6)})
    >>> method([torch.rand(16, 1, 8, 8)], text=torch.randint(100, (16, 6)))["loss"].shape
    torch.Size([])
    """

    paper = "Radford et al. 2021"
    arxiv = "2103.00020"
    family = SIMILARITY
    views = 1
    small = {"epochs": 30, "batch_size": 128, "lr": 2e-3, "projection_dim": 64}
    paper_options = {"epochs": 32, "batch_size": 32768, "lr": 5e-4}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        encoders: dict[str, nn.Module],
        projection_dim: int = 512,
        temperature: float = 0.07,
        pairs: Literal["all", "first"] = "all",
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        self.needs = tuple(check_encoders("CLIP", encoders))
        widths = {name: int(encoder.feature_dim) for name, encoder in encoders.items()}
        _, projection_dim = check_widths("CLIP", feature_dim=feature_dim, projection_dim=projection_dim)
        check_choice("CLIP", "pairs", pairs, ("all", "first"))
        forms = range(1 + len(encoders))
        self.pairs = [pair for pair in combinations(forms, 2) if pairs == "all" or 0 in pair]
        self.encoders = nn.ModuleDict(encoders)
        self.projector = nn.Linear(feature_dim, projection_dim, bias=False)
        self.projectors = nn.ModuleDict(
            {name: nn.Linear(width, projection_dim, bias=False) for name, width in widths.items()}
        )
        scale = min(1 / check_temperature("CLIP", temperature), LARGEST_SCALE)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, views: Sequence[Any], **given: Any) -> dict[str, Tensor | tuple[Tensor, ...]]:
        rows = tuple(self._rows(self.one_view(views), self.needed(given)))
        return {"loss": self.loss(*rows), "embeddings": rows}

    def loss(self, *rows: Tensor) -> Tensor:
        units, scale = [unit_rows(each, backend=self.backend) for each in rows], self.log_scale.exp()
        where: dict[str, Any] = {"group": self.group, "backend": self.backend}
        losses = [clip_loss(units[a], units[b], scale, **where) for a, b in self.pairs]
        return torch.stack(losses).mean()

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(LARGEST_SCALE))

    @torch.no_grad()
    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """How often the own form is among the 10 nearest ones, the mean of both directions, and by chance."""
        if not set(self.needs) <= set(given):
            return {}
        parts = [
            tuple(
                self._rows(
                    inputs[begin : begin + ENCODED], {name: given[name][begin : begin + ENCODED] for name in self.needs}
                )
            )
            for begin in range(0, len(inputs), ENCODED)
        ]
        first, *others = (torch.cat(rows) for rows in zip(*parts, strict=True))
        among = min(NEAREST, len(first))
        found = {
            f"{name}_recall_{NEAREST}": _recall(first, rows, among)
            for name, rows in zip(self.needs, others, strict=True)
        }
        return {**found, f"chance_recall_{NEAREST}": among / len(first)}

    def _rows(self, view: Any, given: Mapping[str, Any]) -> Iterator[Tensor]:
        """Compute the projected rows ``(N, projection_dim)`` of each form."""
        yield self.projector(self.features(view))
        for name, encoder in self.encoders.items():
            yield self.projectors[name](encoder(given[name]))


def _recall(x: Tensor, y: Tensor, among: int) -> float:
    """The share of rows of x whose own row of y is among the nearest by cosine, and of y in x; the mean of both."""
    own = torch.arange(len(x), device=x.device)[:, None]
    found = [(topk_similarity(*pair, among, metric="cosine")[1] == own).any(1) for pair in ((x, y), (y, x))]
    return torch.cat(found).double().mean().item()


def check_encoders(name: str, encoders: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Check networks of the other forms of a sample, by the names of these."""
    check_kind(name, "encoders", encoders, dict, "modules by name, such as {'text': TokenTransformer(100, 6)}")
    if not encoders:
        raise ValueError(f"{name}: encoders is empty; pass at least one module by name, such as {{'text': ...}}.")
    for form, encoder in encoders.items():
        check_module(name, f"encoders[{form!r}]", encoder)
        if not isinstance(getattr(encoder, "feature_dim", None), int):
            raise ValueError(
                f"{name}: encoders[{form!r}] is a {type(encoder).__name__} without feature_dim; set it to the number "
                "of features that it gives."
            )
    return encoders
