# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits that come with scikit-learn: 1,797 real 8x8 images (Alpaydin and Kaynak, UCI, 1998)."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split

MODALITY = "images"
BRIGHTEST = 16


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8x8 that come with scikit-learn (Alpaydin and Kaynak, UCI, 1998)."""
    images, labels = read_digits()
    return split("digits", MODALITY, tuple(map(str, range(10))), images, labels)


def read_digits() -> tuple[Tensor, Tensor]:
    """Read images ``(N, 1, 8, 8)`` and labels."""
    from sklearn import datasets

    digits = datasets.load_digits()
    return torch.from_numpy(digits.images).float()[:, None] / BRIGHTEST, torch.from_numpy(digits.target).long()
