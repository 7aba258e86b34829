# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer (Dosovitskiy et al. 2021) that can run on the tokens that a masked method keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import (
    came,
    check_fits,
    check_flag,
    check_image_size,
    check_rows,
    check_size,
    check_sizes,
    check_tensor,
    check_transformer,
    check_widths,
    shape_of,
)
from sslkernels.functional import patchify_gather
from sslkernels.modules import Module


class Attention(nn.Module):
    """Self-attention of ``heads`` heads over tokens ``(B, L, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron of four times the width, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm0 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm0(x))
        return x + self.mlp(self.norm1(x))


class Transformer(nn.Sequential):
    """``depth`` blocks and a last LayerNorm over tokens ``(B, L, width)``, any number of them.

    >>> import torch
    >>> from sslkernels.models import Transformer
    >>> Transformer(32, depth=2, heads=2)(torch.randn(4, 9, 32)).shape
    torch.Size([4, 9, 32])
    """

    def __init__(self, width: int, *, depth: int, heads: int) -> None:
        width, depth = check_transformer("Transformer", heads, width=width, depth=depth)
        super().__init__(*(Block(width, heads) for _ in range(depth)), nn.LayerNorm(width, eps=1e-6))
        self.apply(init_linear)


class ViT(Module):
    """Map images ``(N, C, H, W)`` in [0, 1] to features ``(N, width)``, the mean of the tokens or the class token.

    ``vit.encode(vit.embed(images, index))`` gives the tokens themselves. With an ``index`` they are those of its
    patches alone, and pixels of other patches are never read. There is no class token unless you ask for one; MAE (He
    et al. 2022, appendix A.1) and I-JEPA (Assran et al. 2023) average as well. `tokens` gives those of whole images,
    the class token and the registers first.

    Args:
        image_size: height and width in pixels.
        patch_size: side of a patch in pixels; it divides both.
        in_channels: channels of an image.
        width, depth, heads: sizes of the transformer; the heads divide the width, which is a multiple of 4.
        class_token: let a token without pixels collect the features, as DINO does.
        registers: further tokens that nobody reads (Darcet et al. 2024, arXiv 2309.16588).
        mask_token: let a learned vector stand for the pixels that `tokens` is told to hide, as in iBOT.
        any_size: take images of other sizes too, such as small crops, whose sides the patch divides. Their patches get
            positions in between, so that every crop covers the positions of ``image_size``.

    >>> import torch
    >>> from sslkernels.models import ViT
    >>> vit = ViT((8, 8), patch_size=2, width=32, depth=2, heads=2)
    >>> images = torch.rand(4, 1, 8, 8)
    >>> vit(images).shape, vit.encode(vit.embed(images, torch.tensor([[0, 5, 6]] * 4))).shape
    (torch.Size([4, 32]), torch.Size([4, 3, 32]))
    """

    pos: Tensor
    prefix: nn.Parameter | None
    mask_token: nn.Parameter | None

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: int,
        in_channels: int = 1,
        *,
        width: int = 96,
        depth: int = 3,
        heads: int = 4,
        class_token: bool = False,
        registers: int = 0,
        mask_token: bool = False,
        any_size: bool = False,
    ) -> None:
        super().__init__()
        image_size = check_image_size("ViT", "image_size", image_size)
        patch_size, in_channels = check_sizes("ViT", patch_size=patch_size, in_channels=in_channels)
        if any(side % patch_size for side in image_size):
            raise ValueError(f"ViT: patch_size is {patch_size} and images {image_size}; it must divide both sides.")
        width, depth = check_transformer("ViT", heads, width=width, depth=depth)
        check_fits("ViT", "image_size", image_size, image_size[0] * image_size[1] * width)
        check_fits("ViT", "in_channels", in_channels, in_channels * patch_size**2 * width)
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.grid = image_size[0] // patch_size, image_size[1] // patch_size
        self.feature_dim = self.width = width
        self.heads = heads
        self.patch = nn.Linear(in_channels * patch_size**2, width)
        self.encode = Transformer(width, depth=depth, heads=heads)
        self.register_buffer("pos", sincos_positions(*self.grid, width), persistent=False)
        # Pixels begin with as much weight as the positions, whose numbers have a mean square of one half. Otherwise
        # tokens would hold little but their position, and be predicted from it alone (I-JEPA on the digits: 5-shot 0.23
        # after training, as before).
        nn.init.normal_(self.patch.weight, std=(2 * self.patch.in_features) ** -0.5)
        nn.init.zeros_(self.patch.bias)
        self.any_size = check_flag("ViT", "any_size", any_size)
        self.class_token = check_flag("ViT", "class_token", class_token)
        registers = check_size("ViT", "registers", registers, least=0)
        check_fits("ViT", "registers", registers, registers * width)
        self.prefix = (
            nn.Parameter(0.02 * torch.randn(class_token + registers, width)) if class_token or registers else None
        )
        self.mask_token = nn.Parameter(torch.zeros(width)) if check_flag("ViT", "mask_token", mask_token) else None

    @property
    def length(self) -> int:
        """The number of patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def ahead(self) -> int:
        """The number of tokens ahead of the patches in what `tokens` gives."""
        return 0 if self.prefix is None else len(self.prefix)

    def embed(self, images: Tensor, index: Tensor | None = None, *, backend: str | None = None) -> Tensor:
        """Make tokens ``(N, K, width)`` with positions, of all patches of ``images`` or those of ``index (N, K)``."""
        pos = self._positions(images)
        if index is None:
            return self._pixels(images) + pos
        pixels = patchify_gather(images, index, self.patch_size, backend=backend)
        return self.patch(2 * pixels - 1) + pos[index]

    def tokens(self, images: Tensor, index: Tensor | None = None, *, hidden: Tensor | None = None) -> Tensor:
        """Encode the class token, the registers and patches in their order: ``(N, ahead + K, width)``.

        ``index (N, K)`` chooses patches; without it all L come, and ``hidden (N, L)``, bool, marks those whose pixels
        the mask token stands for.
        """
        if index is not None and hidden is not None:
            raise ValueError("ViT: hidden came with index; leave one out: what index leaves out need not be hidden.")
        if hidden is None:
            x = self.embed(images, index)
        else:
            pos, x = self._positions(images), self._pixels(images)
            token = self._checked(hidden, x).to(x.dtype)
            x = torch.where(hidden[..., None], token, x) + pos
        if self.prefix is not None:
            x = torch.cat([self.prefix.to(x.dtype).expand(len(x), -1, -1), x], 1)
        return self.encode(x)

    def forward(self, images: Tensor, index: Tensor | None = None) -> Tensor:
        tokens = self.tokens(images, index)
        return tokens[:, 0] if self.class_token else tokens[:, self.ahead :].mean(1)

    def _pixels(self, images: Tensor) -> Tensor:
        return self.patch(2 * patchify(images, self.patch_size) - 1)

    def _positions(self, images: Tensor) -> Tensor:
        """Give the positions ``(L, width)`` of the patches of images, and refuse images of another size."""
        check_rows("ViT", "images", images, "(N, C, H, W)", dims=4)
        size = self.in_channels, *(side * self.patch_size for side in self.grid)
        if images.shape[1:] == size:
            return self.pos
        channels, *sides = images.shape[1:]
        if self.any_size and channels == self.in_channels and not any(side % self.patch_size for side in sides):
            return positions_between(self.grid, [side // self.patch_size for side in sides], self.pos)
        made = f"(N, {', '.join(map(str, size))})"
        if self.any_size:
            made = f"(N, {self.in_channels}, H, W), with sides that {self.patch_size} divides"
        raise ValueError(f"ViT: images have shape {tuple(images.shape)}; it was made for {made}.")

    def _checked(self, hidden: Tensor, patches: Tensor) -> Tensor:
        """Check which patches are hidden, and give the mask token that takes their place."""
        check_tensor("ViT", "hidden", hidden, "(N, L), bool")
        if hidden.dtype != torch.bool or hidden.shape != patches.shape[:2]:
            raise ValueError(
                f"ViT: hidden is {came(hidden)}; pass bool of shape {tuple(patches.shape[:2])}, one for each patch."
            )
        if self.mask_token is None:
            raise ValueError("ViT: hidden came and there is no mask token; make it with ViT(..., mask_token=True).")
        return self.mask_token


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut ``images (N, C, H, W)`` into patches, row by row: their pixels, ``(N, L, C * patch * patch)``.

    >>> import torch
    >>> from sslkernels.models import patchify
    >>> patchify(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 3]
    tensor([10., 11., 14., 15.])
    """
    check_rows("patchify", "images", images, "(N, C, H, W)", dims=4, whole=True)
    patch = check_size("patchify", "patch", patch)
    batch, channels, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(f"patchify: images has shape {shape_of(images)} and patch is {patch}; it must divide H and W.")
    pixels = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    length = (height // patch) * (width // patch)
    return pixels.permute(0, 2, 4, 1, 3, 5).reshape(batch, length, channels * patch**2)


def unpatchify(patches: Tensor, channels: int, grid: tuple[int, int]) -> Tensor:
    """Join the patches that `patchify` makes on a grid of so many rows and columns to images ``(N, channels, H, W)``.

    >>> import torch
    >>> from sslkernels.models import patchify, unpatchify
    >>> images = torch.rand(2, 3, 8, 4)
    >>> torch.equal(unpatchify(patchify(images, 2), 3, (4, 2)), images)
    True
    """
    check_tensor("unpatchify", "patches", patches, "(N, L, C * patch * patch)")
    channels = check_size("unpatchify", "channels", channels)
    grid = check_image_size("unpatchify", "grid", grid)
    patch = math.isqrt(patches.shape[-1] // channels) if patches.dim() == 3 else 0
    if patch == 0 or patches.shape[1:] != (grid[0] * grid[1], channels * patch**2):
        raise ValueError(
            f"unpatchify: patches has shape {shape_of(patches)}, channels is {channels} and grid {grid}; "
            "expected (N, rows * columns, channels * patch * patch)."
        )
    pixels = patches.reshape(-1, *grid, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return pixels.reshape(-1, channels, grid[0] * patch, grid[1] * patch)


def sincos_positions(height: int, width: int, features: int) -> Tensor:
    """Fixed positions of a grid, ``(height * width, features)``: sine and cosine of the row, then of the column.

    Frequencies fall from 1 to 1e-4 as in Vaswani et al. 2017.

    >>> from sslkernels.models import sincos_positions
    >>> sincos_positions(4, 4, 32).shape
    torch.Size([16, 32])
    """
    height, width, features = check_widths("sincos_positions", height=height, width=width, features=features)
    if features % 4:
        raise ValueError(f"sincos_positions: features is {features}; pass a multiple of 4.")
    return _waves(torch.arange(height), torch.arange(width), features)


def positions_between(grid: Sequence[int], other: Sequence[int], like: Tensor) -> Tensor:
    """Positions of an ``other`` grid over the same ground as ``grid``, for the device and dtype of ``like``.

    Patch i of n stands at ``(i + 1/2) G / n - 1/2`` of the G patches of ``grid``, where bicubic interpolation reads
    learned positions too (DINO); sine and cosine are known there.
    """
    rows, columns = ((torch.arange(n) + 0.5) * full / n - 0.5 for full, n in zip(grid, other, strict=True))
    return _waves(rows, columns, like.shape[1]).to(like)


def _waves(rows: Tensor, columns: Tensor, features: int) -> Tensor:
    frequencies = 10000 ** (-torch.arange(features // 4) / (features // 4))
    angles = [axis.reshape(-1, 1) * frequencies for axis in torch.meshgrid(rows, columns, indexing="ij")]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)


def init_linear(module: nn.Module) -> None:
    """Initialise linear maps as in the transformers of MAE and I-JEPA."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
