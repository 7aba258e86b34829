# SPDX-License-Identifier: Apache-2.0
"""CAPI: tell, from the visible part of an image, in which clusters a teacher's features of hidden patches are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_size, check_temperature, check_transformer
from sslkernels.distributed import GroupLike
from sslkernels.functional import prototype_cross_entropy, sinkhorn_bias
from sslkernels.methods.method import Masked
from sslkernels.methods.prototyped import row_weight, usage
from sslkernels.models import ViT
from sslkernels.models.crossing import CrossTransformer
from sslkernels.ops.prototypes import PROTOTYPES
from sslkernels.ops.rows import unit_rows
from sslkernels.prototypes import Prototypes
from sslkernels.state import EMA


class CAPI(Masked):
    """Cluster and Predict Latent Patches for Improved Masked Image Modeling. Darcet et al., TMLR 2025.

    The backbone sees a block of each image, and a predictor, whose queries read its tokens and not each other, says of
    hidden patches in which clusters they are. ``teacher``, the backbone's moving average, sees whole images. With unit
    rows t of its patches, weights C and biases b of the clusterer, unit rows s of the predictor and prototypes V, the
    loss is the mean over predicted patches, plus that over all patches, of

        -sum_k P_k log softmax(s V^T / temperature)_k     and     -sum_k P_k log softmax((t C^T + b) / temperature)_k

    with ``P = softmax(t C^T / teacher_temperature + u)``, where `sslkernels.functional.sinkhorn_bias` finds for each
    place of the image the u that spreads the batch's patches there over all clusters. So no place can be told by its
    cluster, nor a cluster by its place. The first term trains backbone, predictor and V, the second the clusterer
    alone. The biases b change no P, since u takes them off.

    Args:
        backbone: encodes the visible patches alone.
        prototypes: number of clusters.
        predictor_depth: blocks of the predictor, which is as wide as the backbone.
        mask_ratio: share of the patches that are hidden.
        predicted: share of these that are predicted, at least one.
        temperature: temperature of both predictions.
        teacher_temperature: temperature of the assignments P.
        iterations: rounds of Sinkhorn-Knopp.
        momentum: momentum of the teacher at the first step; it rises to 1 in half a cosine.
        backend, group: see `Method`. Assignments are spread over the images of all ranks.

    The visible block may go over the edge and begin again at the other side, as in the authors' code; there its sides
    are drawn for each image, here for the batch. Their clusterer learns at half the rate, which is left to the
    optimizer, and their backbone has registers and rotary positions.

    >>> import torch
    >>> from sslkernels.methods import CAPI
    >>> from sslkernels.models import ViT
    >>> method = CAPI(ViT((8, 8), patch_size=2, width=32, depth=2), prototypes=64, predictor_depth=1)
    >>> method([torch.rand(16, 1, 8, 8)])["loss"].shape
    torch.Size([])
    """

    paper = "Darcet et al. 2025"
    arxiv = "2502.08769"
    family = PROTOTYPES
    small = {
        "epochs": 25, "batch_size": 64, "lr": 2e-3, "prototypes": 32, "predictor_depth": 2, "mask_ratio": 0.5,
        "predicted": 1.0, "momentum": 0.99,
    }  # fmt: skip
    paper_options = {"epochs": 577, "batch_size": 16384, "lr": 1e-3, "patch_size": 14}

    pos: Tensor

    def __init__(
        self,
        backbone: ViT,
        *,
        prototypes: int = 16384,
        predictor_depth: int = 12,
        mask_ratio: float = 0.65,
        predicted: float = 0.05,
        temperature: float = 0.12,
        teacher_temperature: float = 0.06,
        iterations: int = 3,
        momentum: float = 0.999,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        width, predictor_depth = check_transformer(
            "CAPI", backbone.heads, width=backbone.width, predictor_depth=predictor_depth
        )
        prototypes = check_count("CAPI", "prototypes", prototypes, width)
        mask_ratio = check_number("CAPI", "mask_ratio", mask_ratio, least=0, most=1)
        predicted = check_number("CAPI", "predicted", predicted, above=0, most=1)
        self.temperature = check_temperature("CAPI", temperature)
        self.teacher_temperature = check_temperature("CAPI", teacher_temperature, "teacher_temperature")
        self.iterations = check_size("CAPI", "iterations", iterations)
        momentum = check_number("CAPI", "momentum", momentum, least=0, most=1)
        hidden = int(backbone.length * mask_ratio)
        if not 0 < hidden < backbone.length:
            raise ValueError(
                f"CAPI: mask_ratio is {mask_ratio} and an image has {backbone.length} patches; "
                "pass one that hides some and leaves some, such as 0.65."
            )
        self.visible, self.asked = backbone.length - hidden, max(1, int(hidden * predicted))
        self.teacher = EMA(backbone, momentum, schedule="cosine", backend=backend)
        self.clusterer = nn.Linear(width, prototypes)
        nn.init.normal_(self.clusterer.weight)
        nn.init.zeros_(self.clusterer.bias)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.predictor = CrossTransformer(width, depth=predictor_depth, heads=backbone.heads)
        self.prototypes = Prototypes(width, prototypes, kind="scaled")

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        images = self.one_view(views)
        visible, asked = self.hide(len(images), images.device)
        seen = self.backbone.encode(self.backbone.embed(images, visible, backend=self.backend))
        pred = self.predictor(self.mask_token + self.backbone.pos[asked], seen)
        with torch.no_grad():
            patches = self.teacher.module.tokens(images)
        loss, figures = self._measured(pred, asked, patches)
        return {"loss": loss, "embeddings": (pred, asked, patches), **figures}

    def loss(self, pred: Tensor, asked: Tensor, patches: Tensor) -> Tensor:  # type: ignore[override]
        return self._measured(pred, asked, patches)[0]

    def _measured(self, pred: Tensor, asked: Tensor, patches: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, and how the teacher's patches use the clusters."""
        rows, clusters = self.assigned(patches)
        seen = torch.cat([rows[..., : patches.shape[2]], torch.ones_like(rows[..., :1])], 2)
        columns = torch.cat([self.clusterer.weight, self.clusterer.bias[:, None]], 1)
        wanted = rows.gather(1, asked[..., None].expand(-1, -1, rows.shape[2]))
        predicted = self._compared(self._unit(pred), self.prototypes.weight, wanted, clusters)
        clustered = self._compared(seen, columns, rows, clusters)
        return predicted + clustered, usage(rows.flatten(0, 1), clusters, self.teacher_temperature, None)

    @torch.no_grad()
    def assigned(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Assign the teacher's patches ``(N, L, width)`` to clusters: ``P = softmax(rows @ clusters.T / temperature)``.

        Every place has a bias of its own. So the rows ``(N, L, width + L)`` say behind their features at which place
        they are, and the clusters ``(K, width + L)`` their bias there.
        """
        rows, weight = self._unit(patches), self.clusterer.weight.detach()
        bias = sinkhorn_bias(
            rows.transpose(0, 1), weight, self.teacher_temperature,
            iterations=self.iterations, group=self.group, backend=self.backend,
        )  # fmt: skip
        # A softmax takes no notice of a bias that all clusters share, and without it fewer bits are rounded off.
        bias = (self.teacher_temperature * (bias - bias.mean(1, keepdim=True))).to(weight.dtype)
        place = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        return torch.cat([rows, place.expand(len(rows), -1, -1)], 2), torch.cat([weight, bias.T], 1)

    def hide(self, images: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw the visible patches of so many images, ``(images, visible)``, and the predicted ones of the others."""
        rows, columns = self.backbone.grid
        height = math.ceil(math.sqrt(self.visible * 2 ** (2 * torch.rand(()).item() - 1)))
        height = min(rows, max(height, math.ceil(self.visible / columns)))
        width = math.ceil(self.visible / height)
        nth, shift = torch.arange(self.visible, device=device), torch.rand(images, 2, device=device)
        row, column = (nth // width + (shift[:, :1] * rows).long()), (nth % width + (shift[:, 1:] * columns).long())
        visible = row % rows * columns + column % columns
        keys = torch.rand(images, self.backbone.length, device=device).scatter(1, visible, -1.0)
        return visible, keys.topk(self.asked).indices

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        self.teacher.update(self.backbone, step, total_steps)

    def _compared(self, student: Tensor, weight: Tensor, teacher: Tensor, clusters: Tensor) -> Tensor:
        rows = student.flatten(0, 1)
        return prototype_cross_entropy(
            rows,
            weight,
            teacher.flatten(0, 1),
            clusters,
            temperature=self.temperature,
            teacher_temperature=self.teacher_temperature,
            row_weight=row_weight("CAPI", [rows], 1, self.group),
            backend=self.backend,
        )

    def _unit(self, rows: Tensor) -> Tensor:
        return unit_rows(rows.flatten(0, 1), backend=self.backend).view_as(rows)
