# SPDX-License-Identifier: Apache-2.0
"""PIRL: an image, and its patches in any order, look like what a bank remembers of the image."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_number, check_size, check_temperature, check_widths
from sslkernels.distributed import GroupLike, shard_of
from sslkernels.functional import gather_tokens, logsumexp_similarity
from sslkernels.methods.method import Method
from sslkernels.ops.rows import row_dot, unit_rows
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.ops.softplus import softplus
from sslkernels.state import MemoryBank
from sslkernels.terms.jigsaw import tiles_of


class PIRL(Method):
    """Self-Supervised Learning of Pretext-Invariant Representations. Misra and van der Maaten, CVPR 2020.

    ``(1 - jigsaw) * L(image) + jigsaw * L(patches)``, in which ``L(z)`` is the mean over images i of
    ``softplus(log sum_k exp(<z_i, m_k> / temperature) - <z_i, m_i> / temperature)``: m_i is the bank's row of image i,
    and k runs over the samples that were drawn, i left out. The first view is the image. The second is cut into
    patches, which the backbone sees one by one, and whose features are joined in a random order.

    The paper estimates this cross-entropy by noise-contrastive estimation, with 32,000 negatives of a million.

    One draw serves the whole batch, so that its rows are read once and multiplied as a matrix. Any two images of a
    batch then share their negatives, as with a queue; those of one image are as random as if it had a draw of its own.

    Args:
        backbone: images to features ``(N, feature_dim)``; it must take patches too.
        feature_dim: features of the backbone.
        samples: number of training samples; a run fills it.
        projection_dim: features that the loss compares, and features of each patch before they are joined.
        patches: patches of an image, a square number. The paper shifts each within its tile; here they are the tiles.
        negatives: samples that are drawn for each batch; all of them if there are fewer.
        temperature: temperature of the loss.
        jigsaw: weight of the patches, from 0 to 1.
        memory_momentum: share of a row that the bank keeps when its image comes; see `sslkernels.MemoryBank`.
        backend, group: see `Method`. No two images of a batch are compared. Ranks share the bank, and each has a draw
            of its own.

    In training mode `forward` keeps the embeddings of the images, and `after_step` writes them into the bank of every
    rank. It needs ``index``.

    >>> import torch
    >>> from sslkernels.methods import PIRL
    >>> from sslkernels.models import resnet_small
    >>> method = PIRL(resnet_small(), feature_dim=128, samples=100, patches=4)
    >>> views = torch.rand(16, 1, 8, 8), torch.rand(16, 1, 8, 8)
    >>> method(views, index=torch.arange(16))["loss"].shape
    torch.Size([])
    """

    paper = "Misra and van der Maaten 2020"
    arxiv = "1912.01991"
    seeds = (44,)
    family = SIMILARITY
    needs = ("index",)
    small = {
        "epochs": 30, "batch_size": 256, "lr": 4e-3, "projection_dim": 128, "patches": 4, "negatives": 1024,
        "temperature": 0.1,
    }  # fmt: skip
    paper_options = {"epochs": 800, "batch_size": 1024, "lr": 1e-3}

    def __init__(
        self,
        backbone: nn.Module,
        *,
        feature_dim: int,
        samples: int,
        projection_dim: int = 128,
        patches: int = 9,
        negatives: int = 32000,
        temperature: float = 0.07,
        jigsaw: float = 0.5,
        memory_momentum: float = 0.5,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        feature_dim = self.check_feature_dim(feature_dim)
        _, projection_dim = check_widths("PIRL", feature_dim=feature_dim, projection_dim=projection_dim)
        samples = check_count("PIRL", "samples", samples, projection_dim)
        patches = check_count("PIRL", "patches", patches, projection_dim**2)
        self.grid = isqrt(patches)
        if self.grid**2 != patches:
            raise ValueError(f"PIRL: patches is {patches}; pass a square number, such as {self.grid**2}.")
        self.negatives = check_size("PIRL", "negatives", negatives)
        self.temperature = check_temperature("PIRL", temperature)
        self.jigsaw = check_number("PIRL", "jigsaw", jigsaw, least=0, most=1)
        memory_momentum = check_number("PIRL", "memory_momentum", memory_momentum, least=0, most=1)
        self.projector = nn.Linear(feature_dim, projection_dim)
        self.patch_projector = nn.Linear(feature_dim, projection_dim)
        self.join = nn.Linear(patches * projection_dim, projection_dim)
        self.bank = MemoryBank(samples, projection_dim, memory_momentum)
        self._newest: list[tuple[Tensor, Tensor]] = []

    def check_views(self, views: Sequence[Tensor]) -> None:
        tiles_of("PIRL", self.two_views(views)[1], self.grid)

    def forward(self, views: Sequence[Tensor], **given: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        index = self.needed(given)["index"]
        view, other = self.two_views(views)
        image, patches = self.projector(self.features(view)), self.embed_patches(other)
        index = self.bank.check_index(index, image)
        draw = torch.randperm(len(self.bank.rows), device=image.device)[: self.negatives]
        if self.training:
            self._newest.append((index, F.normalize(image.detach(), dim=1)))
        embeddings = image, patches, index, draw
        return {"loss": self.loss(*embeddings), "embeddings": embeddings}

    def embed_patches(self, images: Tensor) -> Tensor:
        """Cut images and embed their patches, joined in a random order, as ``(N, projection_dim)``."""
        tiles = tiles_of("PIRL", images, self.grid)
        rows = self.patch_projector(self.features(tiles.flatten(0, 1))).unflatten(0, tiles.shape[:2])
        order = torch.rand(tiles.shape[:2], device=images.device).argsort(1)
        return self.join(gather_tokens(rows, order, backend=self.backend).flatten(1))

    def loss(self, image: Tensor, patches: Tensor, index: Tensor, draw: Tensor) -> Tensor:  # type: ignore[override]
        self.bank.agree(self.group)
        shard = shard_of(self.group, "PIRL", image, patches, jigsaw=self.jigsaw)
        rows = self.bank.rows
        place = index.new_full((len(rows),), -1).scatter_(0, draw, torch.arange(len(draw), device=draw.device))
        remembered, negatives, own = rows[index], rows[draw], place[index]

        def contrast(z: Tensor) -> Tensor:
            z = unit_rows(z, backend=self.backend)
            scale = 1 / self.temperature
            others = logsumexp_similarity(z, negatives.to(z.dtype), scale, exclude=own, backend=self.backend)
            losses = softplus(others - scale * row_dot(z, remembered.to(z.dtype), backend=self.backend))
            return losses.sum() * (shard.ranks / shard.total(len(z)))  # its mean over ranks is that of all images

        return (1 - self.jigsaw) * contrast(image) + self.jigsaw * contrast(patches)

    def after_step(self, step: int, total_steps: float) -> None:
        super().after_step(step, total_steps)
        if self._newest:
            index, rows = (torch.cat(parts) for parts in zip(*self._newest, strict=True))
            self.bank.update(index, rows, group=self.group)
            self._newest.clear()
