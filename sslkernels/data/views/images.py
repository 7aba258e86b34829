# SPDX-License-Identifier: Apache-2.0
"""Draws random views of every image, from torch's random state so that a resumed run repeats them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import came, check_flag, check_image_size, check_rows, check_size, is_whole
from sslkernels.data.views.drawn import Drawn

LARGE = 64
# Crops of a whole batch are one warp; "slice" cuts and resizes one image after another, in 2.5 to 4 times the time.
WARP = "resample"
IMAGES = "(N, C, H, W), numbers in [0, 1]"


class ImageViews(Drawn):
    """Map images ``(N, C, H, W)`` in [0, 1] to ``count`` augmented batches of the same shape, on the images' device.

    One channel is taken for writing: crop, rotate, shift, shear, erase; a flipped digit is another digit. Three
    channels are taken for photographs: SimCLR's crop, flip, colour and greyscale, with blur from 64 pixels on. Of
    photographs in grey, such as clothes or X-rays, say that they are no ``writing``: crop, flip, brightness, contrast.

    Args:
        channels, image_size: sizes of the images.
        count: number of views.
        whole: only rotate, shift, scale and shear writing, so that every view shows the whole of it.
        writing: take one channel for writing.

    >>> import torch
    >>> from sslkernels.data import ImageViews
    >>> views = ImageViews(channels=1, image_size=(8, 8), count=3)(torch.rand(4, 1, 8, 8))
    >>> [view.shape for view in views]
    [torch.Size([4, 1, 8, 8]), torch.Size([4, 1, 8, 8]), torch.Size([4, 1, 8, 8])]
    """

    def __init__(
        self, channels: int, image_size: tuple[int, int], count: int = 2, *, whole: bool = False, writing: bool = True
    ) -> None:
        super().__init__(count)
        name = type(self).__name__
        channels, image_size = check_images_are(name, channels, image_size)
        whole, writing = check_flag(name, "whole", whole), check_flag(name, "writing", writing)
        self.augment = augmentations(channels, image_size, whole=whole, writing=writing)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        check_rows(type(self).__name__, "images", images, IMAGES, dims=4)
        # Each image of a batch has its own numbers, so all views are drawn at once, which costs little more than one.
        return self.draw(torch.cat([images] * self.count)).chunk(self.count)

    def draw(self, images: Tensor) -> Tensor:
        return self.augment(images)


class TwoViews(ImageViews):
    """Map images ``(N, C, H, W)`` in [0, 1] to two augmented batches of the same shape; see `ImageViews`.

    >>> import torch
    >>> from sslkernels.data import TwoViews
    >>> first, second = TwoViews(channels=1, image_size=(8, 8))(torch.rand(4, 1, 8, 8))
    >>> first.shape
    torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self, channels: int, image_size: tuple[int, int], *, whole: bool = False, writing: bool = True
    ) -> None:
        super().__init__(channels, image_size, whole=whole, writing=writing)


def augmentations(
    channels: int,
    image_size: tuple[int, int],
    scale: tuple[float, float] | None = None,
    whole: bool = False,
    writing: bool = True,
) -> nn.Sequential:
    """Make the changes of `ImageViews`, which begin with a crop of a share in ``scale``, unless the ``whole`` stays."""
    import kornia.augmentation as K

    if channels == 1 and not writing:
        return nn.Sequential(
            K.RandomResizedCrop(image_size, scale=scale or (0.4, 1.0), cropping_mode=WARP),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, p=0.8),
        )
    if channels == 1 and whole:
        return nn.Sequential(K.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=10.0, p=1.0))
    if channels == 1:
        return nn.Sequential(
            K.RandomResizedCrop(image_size, scale=scale or (0.4, 1.0), ratio=(0.8, 1.25), cropping_mode=WARP),
            K.RandomAffine(15.0, translate=(0.1, 0.1), shear=10.0, p=1.0),
            K.RandomErasing(scale=(0.02, 0.25), p=0.5),
        )
    augment = nn.Sequential(
        K.RandomResizedCrop(image_size, scale=scale or (0.2, 1.0), cropping_mode=WARP),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
    )
    if min(image_size) >= LARGE:
        augment.append(K.RandomGaussianBlur((7, 7), (0.1, 2.0), p=0.5))
    return augment


def check_images_are(function: str, channels: int, image_size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    if not is_whole(channels, 1) or channels not in (1, 3):
        raise ValueError(f"{function}: channels is {came(channels)}; pass 1 for writing or 3 for photographs.")
    return check_size(function, "channels", channels), check_image_size(function, "image_size", image_size)


class OneView(Drawn):
    """Map images ``(N, C, H, W)`` in [0, 1] to one batch of the same shape, for methods that hide a part of it.

    Hiding a part varies an image enough. One channel is taken for writing, and stays as it is. Three channels are taken
    for photographs, and are cropped and mirrored, as in MAE (He et al. 2022, section 4.1).

    >>> import torch
    >>> from sslkernels.data import OneView
    >>> (view,) = OneView(channels=3, image_size=(16, 16))(torch.rand(4, 3, 16, 16))
    >>> view.shape
    torch.Size([4, 3, 16, 16])
    """

    def __init__(self, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__(1)
        channels, image_size = check_images_are("OneView", channels, image_size)
        self.augment = nn.Sequential()
        if channels != 1:
            import kornia.augmentation as K

            self.augment.extend(
                [K.RandomResizedCrop(image_size, scale=(0.2, 1.0), cropping_mode=WARP), K.RandomHorizontalFlip()]
            )

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        check_rows("OneView", "images", images, IMAGES, dims=4)
        return (self.draw(images),)

    def draw(self, images: Tensor) -> Tensor:
        return self.augment(images)
