# SPDX-License-Identifier: Apache-2.0
"""Tables of numbers: float32 ``(N, D)``, each column with mean 0 and deviation 1 over the training set."""

from __future__ import annotations

from torch import nn

from sslkernels.data import Dataset, RandomizedQuantization, TableViews, Views
from sslkernels.data.raw import numbers
from sslkernels.methods import SimCLR
from sslkernels.models import ColumnTransformer
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.recipe import Recipe


def columns(dataset: Dataset, *, width: int = 64, depth: int = 2, heads: int = 4) -> ColumnTransformer:
    return ColumnTransformer(dataset.inputs.shape[1], width=width, depth=depth, heads=heads)


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return TableViews(count)


def quantised(dataset: Dataset, count: int, whole: bool, *, regions: int = 8) -> nn.Module:
    return Views(RandomizedQuantization(regions), count)


MODALITY = Modality(
    "tables",
    data="segment",
    encoders={"features": Encoder(columns)},
    views=views,
    raw=numbers,
    small={"epochs": 15, "batch_size": 128, "lr": 1e-3},
)

RECIPES = (
    Recipe(
        "rq_simclr",
        SimCLR,
        MODALITY,
        paper="Wu et al. 2022",
        arxiv="2212.08663",
        data="segment",
        views=quantised,
        small={**SimCLR.small, **MODALITY.small},
        paper_options=SimCLR.paper_options,
    ),
)
