# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits that come with scikit-learn: 1,797 real 8x8 images (Alpaydin and Kaynak, UCI, 1998)."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split, split_by_group

MODALITY = "images"
BRIGHTEST = 16
# Colours of paper and ink, which is darker everywhere. The last pair is held out.
STYLES = (
    ((1.0, 0.95, 0.8), (0.3, 0.1, 0.0)),
    ((0.7, 0.85, 1.0), (0.0, 0.1, 0.6)),
    ((0.9, 0.6, 0.6), (0.5, 0.0, 0.1)),
    ((0.5, 0.8, 0.5), (0.1, 0.3, 0.0)),
    ((0.8, 0.5, 0.9), (0.4, 0.3, 0.2)),
)


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8x8 that come with scikit-learn (Alpaydin and Kaynak, UCI, 1998)."""
    images, labels = read_digits()
    return split("digits", MODALITY, tuple(map(str, range(10))), images, labels)


def load_painted() -> Dataset:
    """The same digits in five pairs of colours, one of which nobody sees in training.

    ``extra`` has the ``style``: every fifth digit has the same one. So it is asked whether features of shape carry over
    to colours that are new.
    """
    digits, labels = read_digits()
    style = torch.arange(len(digits)) % len(STYLES)
    paper, ink = torch.tensor(STYLES)[style, :, :, None, None].unbind(1)
    images = paper + digits * (ink - paper)
    held_out = [len(STYLES) - 1]
    return split_by_group(
        "painted", MODALITY, tuple(map(str, range(10))), images, labels, "style", held_out, style=style
    )


def read_digits() -> tuple[Tensor, Tensor]:
    """Read images ``(N, 1, 8, 8)`` and labels."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return torch.from_numpy(digits.images).float()[:, None] / BRIGHTEST, torch.from_numpy(digits.target).long()
