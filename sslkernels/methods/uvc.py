# SPDX-License-Identifier: Apache-2.0
"""UVC: each place of a frame finds the place in another frame that it comes from, and has that place's colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_kind, check_temperature, check_weights, shape_of
from sslkernels.distributed import GroupLike
from sslkernels.methods.method import Method
from sslkernels.models import ResNet
from sslkernels.ops.dtypes import widened
from sslkernels.ops.rows import ROWS, unit_rows
from sslkernels.terms.colour import grey, lab


class UVC(Method):
    """Joint-task Self-supervised Learning for Temporal Correspondence. Li et al., NeurIPS 2019.

    Two frames are encoded without their colours. With the unit rows f of their places, place i of the second frame
    attends to the places j of the first, ``A_ij = softmax_j(<f_1i, f_0j> / temperature)``, and B the other way round.
    Of colours c in Lab, from -1 to 1, and places p, from 0 to 1 down and across, the loss is

    - ``|A c_0 - c_1|``, the mean error of the colours that the first frame lends to the second
    - ``concentration`` times the mean variance of the places that a place attends to
    - ``orthogonality`` times ``|B A c_0 - c_0| + |B A p - p|``: who goes there and back is where it was

    This follows the paper after the abstract. Ours are the three weights, the temperature and unit rows, that the third
    part is a mean error of what comes back, and that whole frames are compared: the paper finds the region first.

    Args:
        backbone: a `sslkernels.models.ResNet` of images in red, green and blue, which gives features of each place.
        feature_dim: features of the backbone.
        temperature: temperature of the attention.
        concentration, orthogonality: weights of the second and the third part.
        backend: see `Method`.
        group: unused, since the loss is a mean over frames.

    >>> import torch
    >>> from sslkernels.methods import UVC
    >>> from sslkernels.models import resnet_small
    >>> frames = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
    >>> UVC(resnet_small(3), feature_dim=128)(frames)["loss"].shape
    torch.Size([])
    """

    paper = "Li et al. 2019"
    arxiv = "1909.11895"
    seeds = (108,)
    after_abstract = True
    family = ROWS
    small = {"epochs": 8, "batch_size": 64, "lr": 5e-4, "concentration": 0.1}
    paper_options = {"epochs": 10, "batch_size": 24, "lr": 1e-4}
    whole_views = True
    backbone: ResNet

    def __init__(
        self,
        backbone: ResNet,
        *,
        feature_dim: int,
        temperature: float = 0.05,
        concentration: float = 1.0,
        orthogonality: float = 1.0,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        expected = "a sslkernels.models.ResNet, which gives the features of each place"
        super().__init__(check_kind("UVC", "backbone", backbone, ResNet, expected), backend=backend, group=group)
        self.check_feature_dim(feature_dim)
        self.temperature = check_temperature("UVC", temperature)
        self.concentration, self.orthogonality = check_weights(
            "UVC", concentration=concentration, orthogonality=orthogonality
        )

    def check_views(self, views: Sequence[Tensor]) -> None:
        for place, view in enumerate(self.two_views(views)):
            if view.dim() != 4 or view.shape[1] != 3:
                raise ValueError(
                    f"UVC: views[{place}] has shape {shape_of(view)}; pass colour images (N, 3, H, W), such as "
                    "--data turns."
                )

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        self.check_views(views)
        grids = [self.backbone.feature_grid(grey(view)) for view in views]
        height, width = grids[0].shape[2:]
        rows = [grid.flatten(2).mT for grid in grids]
        colours = [F.adaptive_avg_pool2d(lab(widened(view)), (height, width)).flatten(2).mT for view in views]
        sides = [torch.linspace(0, 1, side, device=rows[0].device, dtype=colours[0].dtype) for side in (height, width)]
        places = torch.cartesian_prod(*sides)
        embeddings = *rows, *colours, places
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def loss(self, rows0: Tensor, rows1: Tensor, colours0: Tensor, colours1: Tensor, places: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the loss of features ``(N, P, D)`` and colours ``(N, P, 3)`` of P places ``(P, 2)``."""
        everyones = places.expand(len(rows0), -1, -1)
        lent = self.lent(rows0, rows1, torch.cat([colours0, everyones, everyones.square()], 2))
        colours, middle, squares = lent.split([3, 2, 2], 2)
        variance = (squares - middle.square()).clamp_min(0).sum(2).mean()
        back = self.lent(rows1, rows0, lent[..., :5])
        there_and_back = (back[..., :3] - colours0).abs().mean() + (back[..., 3:] - everyones).abs().mean()
        lost = (colours - colours1).abs().mean()
        return lost + self.concentration * variance + self.orthogonality * there_and_back

    def lent(self, of: Tensor, to: Tensor, values: Tensor) -> Tensor:
        """Give each place of the frame ``to`` the mean of the values ``(N, P, V)`` of the places that it attends to.

        torch's attention is batched, and the values of the few places of a frame take no kernel of ours.
        """
        of, to = (
            unit_rows(rows.flatten(0, 1), backend=self.backend).unflatten(0, rows.shape[:2]).to(values.dtype)
            for rows in (of, to)
        )
        return F.scaled_dot_product_attention(to, of, values, scale=1 / self.temperature)

    @torch.no_grad()
    def scores(self, inputs: Any, labels: Tensor | None, **given: Any) -> dict[str, float]:
        """Measure the error of colours lent to pictures that have moved by a quarter, and of those that stay."""
        moved = inputs.roll((inputs.shape[2] // 4, inputs.shape[3] // 4), (2, 3))
        rows0, rows1, colours0, colours1, _ = self([inputs, moved])["embeddings"]
        found = {"lent": self.lent(rows0, rows1, colours0), "copied": colours0}
        return {f"{name}_error": (colours - colours1).abs().mean().item() for name, colours in found.items()}
