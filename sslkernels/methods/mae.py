# SPDX-License-Identifier: Apache-2.0
"""MAE: see a quarter of an image's patches, and paint the others."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_flag, check_number, check_transformer
from sslkernels.distributed import GroupLike
from sslkernels.drawing import paintings
from sslkernels.functional import masked_mse, random_masking, restore_tokens
from sslkernels.methods.method import Masked
from sslkernels.models import Transformer, ViT, patchify, sincos_positions, unpatchify

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MAE(Masked):
    """Masked Autoencoders Are Scalable Vision Learners. He et al., CVPR 2022.

    Args:
        backbone: encodes the visible patches alone.
        mask_ratio: share of the patches that are hidden.
        decoder_width, decoder_depth: size of the transformer that paints. It is thrown away afterwards, so it is light.
        normalize_target: predict patches in units of their own mean and deviation, as the paper's best models do.
        backend: see `Method`.
        group: see `Method`. No image is compared with another, so ranks have nothing to exchange.

    >>> import torch
    >>> from sslkernels.methods import MAE
    >>> from sslkernels.models import ViT
    >>> method = MAE(ViT((8, 8), patch_size=2, width=32, depth=2))
    >>> method([torch.rand(16, 1, 8, 8)])["loss"].shape
    torch.Size([])
    """

    paper = "He et al. 2022"
    arxiv = "2111.06377"
    small = {"epochs": 60, "batch_size": 64, "lr": 2e-3, "mask_ratio": 0.75}
    paper_options = {"epochs": 800, "batch_size": 4096, "lr": 2.4e-3, "patch_size": 16}

    pos: Tensor

    def __init__(
        self,
        backbone: ViT,
        *,
        mask_ratio: float = 0.75,
        decoder_width: int = 64,
        decoder_depth: int = 1,
        normalize_target: bool = True,
        backend: str | None = None,
        group: GroupLike = None,
    ) -> None:
        super().__init__(backbone, backend=backend, group=group)
        mask_ratio = check_number("MAE", "mask_ratio", mask_ratio, least=0, most=1)
        normalize_target = check_flag("MAE", "normalize_target", normalize_target)
        decoder_width, decoder_depth = check_transformer(
            "MAE", backbone.heads, decoder_width=decoder_width, decoder_depth=decoder_depth
        )
        pixels = backbone.in_channels * backbone.patch_size**2
        if backbone.length < 2 or (normalize_target and pixels < 2):
            raise ValueError(
                f"MAE: patches of patch_size {backbone.patch_size} have {pixels} numbers and an image has "
                f"{backbone.length}; pass a patch_size of which there are several, of more than one number."
            )
        if not 0 < int(backbone.length * (1 - mask_ratio)) < backbone.length:
            raise ValueError(
                f"MAE: mask_ratio is {mask_ratio} and an image has {backbone.length} patches; "
                "pass one that hides some and leaves some, such as 0.75."
            )
        self.mask_ratio = mask_ratio
        self.normalize_target = normalize_target
        self.decoder_embed = nn.Linear(backbone.width, decoder_width)
        self.mask_token = nn.Parameter(torch.randn(decoder_width) * 0.02)
        self.decoder = Transformer(decoder_width, depth=decoder_depth, heads=backbone.heads)
        self.painter = nn.Linear(decoder_width, pixels)
        self.register_buffer("pos", sincos_positions(*backbone.grid, decoder_width), persistent=False)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor | tuple[Tensor, ...]]:
        images = self.one_view(views)
        pred, mask = self.paint(images)
        target = patchify(images.detach(), self.backbone.patch_size)
        return {"loss": self.loss(pred, target, mask), "embeddings": (pred, target, mask)}

    def loss(self, pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return masked_mse(pred, target, mask, normalize_target=self.normalize_target, backend=self.backend)

    def paint(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Predict all patches ``(N, L, pixels)`` from the visible ones; the mask ``(N, L)`` is 1 for hidden ones."""
        keep, restore, mask = random_masking(
            len(images),
            self.backbone.length,
            self.mask_ratio,
            generator=generator,
            device=images.device,
            backend=self.backend,
        )
        visible = self.backbone.encode(self.backbone.embed(images, keep, backend=self.backend))
        visible = self.decoder_embed(visible)
        tokens = restore_tokens(visible, restore, self.mask_token, pos=self.pos, backend=self.backend)
        return self.painter(self.decoder(tokens)), mask

    @torch.no_grad()
    def picture(self, inputs: Tensor) -> Figure:
        """Draw images, their visible patches, and the hidden ones as predicted from them."""
        return paintings(inputs, *self.reconstruct(inputs))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Give the visible pixels, bool as ``images``, and the images with the hidden ones as predicted.

        With ``normalize_target`` the predictions lack each hidden patch's mean and deviation; the true ones are taken.
        """
        pred, mask = self.paint(images, generator)
        target = patchify(images, self.backbone.patch_size)
        if self.normalize_target:
            variance, mean = torch.var_mean(target, 2, keepdim=True)
            pred = pred * (variance + 1e-6).sqrt() + mean
        hidden = mask.bool()[..., None].expand_as(target)
        whole = partial(unpatchify, channels=self.backbone.in_channels, grid=self.backbone.grid)
        return whole(~hidden), whole(torch.where(hidden, pred, target))
