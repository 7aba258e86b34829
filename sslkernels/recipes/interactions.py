# SPDX-License-Identifier: Apache-2.0
"""Logs of users in time: numbered items int64 ``(N, L)``; 0 is padding."""

from __future__ import annotations

from torch import nn

from sslkernels.data import Dataset, TokenViews
from sslkernels.data.raw import counts
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.sequence import transformer


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return TokenViews(count)


MODALITY = Modality(
    "interactions",
    data="movielens",
    encoders={"features": Encoder(transformer)},
    views=views,
    raw=counts,
    small={"epochs": 60, "batch_size": 128, "lr": 2e-3},
)
