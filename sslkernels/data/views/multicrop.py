# SPDX-License-Identifier: Apache-2.0
"""Draws large and small crops of every image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_flag, check_image_size, check_range, check_rows, check_size
from sslkernels.data.views.images import IMAGES, augmentations, check_images_are

# Small crops of SwAV and DINO: 96 pixels where large ones have 224.
SMALL = 96 / 224
# Where crops are cut and not resized, images are this much larger than a large crop: 256 pixels for 224.
ENLARGED = 256 / 224


class MultiCrop(nn.Module):
    """Map images ``(N, C, H, W)`` in [0, 1] to ``large`` views of ``image_size`` and ``small`` ones of ``small_size``.

    A large view shows much of an image and a small one little, so that a method learns from parts what the whole is
    (SwAV, Caron et al. 2020, arXiv 2006.09882; the default scales split [0.05, 1] at 0.4, as in DINO, Caron et al.
    2021). What follows the crop is as in `ImageViews`.

    Args:
        channels, image_size: sizes of the images; 1 channel for writing, 3 for photographs.
        large, small: number of views of each size.
        small_size: size of a small view, by default 96/224 of ``image_size``, rounded to an even number.
        large_scale, small_scale: range of the share of the image's area that a view shows.
        cut: only cut views out of the image, enlarged by 256/224, and change nothing else: no size, place, flip or
            colour (Moutakanni et al. 2024, arXiv 2406.09294). The scales count for nothing then.
        writing: take one channel for writing, as `ImageViews` does.

    ``forward(images)`` gives a tuple of all large views, then of all small ones. Of images with several shots
    ``(N, S, C, H, W)`` each view is drawn from the next shot, as in `Shots`.

    >>> import torch
    >>> from sslkernels.data import MultiCrop
    >>> views = MultiCrop(channels=3, image_size=(32, 32), small=2)(torch.rand(4, 3, 32, 32))
    >>> [tuple(view.shape) for view in views]
    [(4, 3, 32, 32), (4, 3, 32, 32), (4, 3, 14, 14), (4, 3, 14, 14)]
    """

    def __init__(
        self,
        channels: int,
        image_size: tuple[int, int],
        large: int = 2,
        small: int = 6,
        small_size: tuple[int, int] | None = None,
        large_scale: tuple[float, float] = (0.4, 1.0),
        small_scale: tuple[float, float] = (0.05, 0.4),
        *,
        cut: bool = False,
        writing: bool = True,
    ) -> None:
        super().__init__()
        channels, image_size = check_images_are("MultiCrop", channels, image_size)
        self.large = check_size("MultiCrop", "large", large)
        self.small = check_size("MultiCrop", "small", small, least=0)
        if small_size is None:
            height, width = (max(2, 2 * round(side * SMALL / 2)) for side in image_size)
        else:
            height, width = check_image_size("MultiCrop", "small_size", small_size)
        large_scale = check_range("MultiCrop", "large_scale", large_scale, most=1)
        small_scale = check_range("MultiCrop", "small_scale", small_scale, most=1)
        writing = check_flag("MultiCrop", "writing", writing)
        if check_flag("MultiCrop", "cut", cut):
            self.augment_large: nn.Module = _Cut(image_size, image_size)
            self.augment_small: nn.Module = _Cut((height, width), image_size)
        else:
            self.augment_large = augmentations(channels, image_size, large_scale, writing=writing)
            self.augment_small = augmentations(channels, (height, width), small_scale, writing=writing)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        dims = 5 if isinstance(images, Tensor) and images.dim() == 5 else 4
        shots = check_rows("MultiCrop", "images", images, IMAGES, dims=dims)
        shots = shots[:, None] if dims == 4 else shots
        drawn = [shots[:, view % shots.shape[1]] for view in range(self.large + self.small)]
        # Each image of a batch has its own numbers, so all views of a size are drawn at once.
        views = self.augment_large(torch.cat(drawn[: self.large])).chunk(self.large)
        if self.small:
            views += self.augment_small(torch.cat(drawn[self.large :])).chunk(self.small)
        return views


class _Cut(nn.Module):
    """Cut a window of ``size`` out of each image, anywhere, after images of ``image_size`` are enlarged."""

    def __init__(self, size: tuple[int, int], image_size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.enlarged = tuple(max(side + 1, round(side * ENLARGED)) for side in image_size)

    def forward(self, images: Tensor) -> Tensor:
        images = F.interpolate(images, self.enlarged, mode="bilinear", antialias=True)
        (height, width), count = self.size, len(images)
        down, right = (
            (torch.rand(count, 1, device=images.device) * (full - side + 1)).long()
            for full, side in zip(self.enlarged, self.size, strict=True)
        )
        rows = (down + torch.arange(height, device=images.device))[:, :, None]
        columns = (right + torch.arange(width, device=images.device))[:, None]
        sample = torch.arange(count, device=images.device)[:, None, None]
        return images[sample, :, rows, columns].movedim(3, 1).contiguous()
