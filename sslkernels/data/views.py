# SPDX-License-Identifier: Apache-2.0
"""Draws one or two random views of every image, from torch's random state so that a resumed run repeats them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import came, check_flag, check_image_size, check_rows, check_size, is_whole

LARGE = 64


class TwoViews(nn.Module):
    """Map images ``(N, C, H, W)`` in [0, 1] to two augmented batches of the same shape, on the images' device.

    One channel is taken for writing: crop, rotate, shift, shear, erase; a flipped digit is another digit. Three
    channels are taken for photographs: SimCLR's crop, flip, colour and greyscale, with blur from 64 pixels on.

    Args:
        channels, image_size: sizes of the images.
        whole: only rotate, shift, scale and shear writing, so that every view shows the whole of it.

    >>> import torch
    >>> from sslkernels.data import TwoViews
    >>> first, second = TwoViews(channels=1, image_size=(8, 8))(torch.rand(4, 1, 8, 8))
    >>> first.shape
    torch.Size([4, 1, 8, 8])
    """

    def __init__(self, channels: int, image_size: tuple[int, int], *, whole: bool = False) -> None:
        super().__init__()
        channels, image_size = check_images_are("TwoViews", channels, image_size)
        whole = check_flag("TwoViews", "whole", whole)
        import kornia.augmentation as K

        if channels == 1 and whole:
            self.augment = nn.Sequential(
                K.RandomAffine(15.0, translate=(0.1, 0.1), scale=(0.8, 1.2), shear=10.0, p=1.0)
            )
        elif channels == 1:
            self.augment = nn.Sequential(
                K.RandomResizedCrop(image_size, scale=(0.4, 1.0), ratio=(0.8, 1.25)),
                K.RandomAffine(15.0, translate=(0.1, 0.1), shear=10.0, p=1.0),
                K.RandomErasing(scale=(0.02, 0.25), p=0.5),
            )
        else:
            self.augment = nn.Sequential(
                K.RandomResizedCrop(image_size, scale=(0.2, 1.0)),
                K.RandomHorizontalFlip(),
                K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
                K.RandomGrayscale(p=0.2),
            )
            if min(image_size) >= LARGE:
                self.augment.append(K.RandomGaussianBlur((7, 7), (0.1, 2.0), p=0.5))

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        check_rows("TwoViews", "images", images, "(N, C, H, W), numbers in [0, 1]", dims=4)
        return self.augment(images), self.augment(images)


def check_images_are(function: str, channels: int, image_size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    if not is_whole(channels, 1) or channels not in (1, 3):
        raise ValueError(f"{function}: channels is {came(channels)}; pass 1 for writing or 3 for photographs.")
    return check_size(function, "channels", channels), check_image_size(function, "image_size", image_size)


class OneView(nn.Module):
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
        super().__init__()
        channels, image_size = check_images_are("OneView", channels, image_size)
        self.augment = nn.Sequential()
        if channels != 1:
            import kornia.augmentation as K

            self.augment.extend([K.RandomResizedCrop(image_size, scale=(0.2, 1.0)), K.RandomHorizontalFlip()])

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor]:
        check_rows("OneView", "images", images, "(N, C, H, W), numbers in [0, 1]", dims=4)
        return (self.augment(images),)
