# SPDX-License-Identifier: Apache-2.0
"""Pictures with their names, written as numbered words or spoken as log-mel spectrograms."""

from __future__ import annotations

from torch import nn

from sslkernels.data import Dataset
from sslkernels.methods import CLIP, SSTerrain
from sslkernels.models import SpectrogramNet, TokenTransformer
from sslkernels.recipes import images
from sslkernels.recipes.recipe import Recipe


def written(dataset: Dataset) -> TokenTransformer:
    """A transformer over the words of a name."""
    names = dataset.extra["text"], dataset.test_extra["text"]
    return TokenTransformer(max(int(each.max()) for each in names) + 1, names[0].shape[1])


def spoken(dataset: Dataset) -> nn.Module:
    """A convolutional network over the spectrogram of a spoken name."""
    return SpectrogramNet((16, 32, 64))


RECIPES = (
    Recipe(
        "clip",
        CLIP,
        images.MODALITY,
        paper=CLIP.paper,
        arxiv=CLIP.arxiv,
        data="emoji",
        encoders={"text": written},
        small={**CLIP.small, **images.HALF},
        paper_options=CLIP.paper_options,
    ),
    Recipe(
        "cmc",
        CLIP,
        images.MODALITY,
        paper="Tian, Krishnan and Isola 2020",
        arxiv="1906.05849",
        data="stamps",
        encoders={"speech": spoken, "text": written},
        small={**CLIP.small, **images.HALF},
        paper_options={"epochs": 240, "batch_size": 128, "lr": 1e-3, "projection_dim": 128},
    ),
    Recipe.plain(
        "ss_terrain",
        SSTerrain,
        images.MODALITY,
        data="stamps",
        encoders={"speech": spoken},
        small={**SSTerrain.small, **images.HALF},
    ),
)
