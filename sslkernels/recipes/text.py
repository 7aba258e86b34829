# SPDX-License-Identifier: Apache-2.0
"""Text: numbered words int64 ``(N, L)``; 0 is padding, and 1 a rare word."""

from __future__ import annotations

from torch import nn

from sslkernels.data import Dataset, TokenViews
from sslkernels.data.raw import counts
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.sequence import transformer


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return TokenViews(count)


MODALITY = Modality(
    "text",
    data="verses",
    encoders={"features": Encoder(transformer)},
    views=views,
    raw=counts,
    small={"epochs": 2, "batch_size": 256, "lr": 2e-3},
)
