# SPDX-License-Identifier: Apache-2.0
"""The handwritten digits that come with scikit-learn: 1,797 real 8x8 images (Alpaydin and Kaynak, UCI, 1998)."""

from __future__ import annotations

import torch

from sslkernels.data.dataset import Dataset, split

BRIGHTEST = 16


def load_digits() -> Dataset:
    from sklearn import datasets

    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / BRIGHTEST
    return split("digits", tuple(map(str, range(10))), images, torch.from_numpy(digits.target).long())
