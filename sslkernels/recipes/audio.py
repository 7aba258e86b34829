# SPDX-License-Identifier: Apache-2.0
"""Sounds: log-mel spectrograms float32 ``(N, 1, mels, frames)``."""

from __future__ import annotations

import torch
from torch import nn

from sslkernels.data import (
    AudioViews,
    Dataset,
    LogMixupExp,
    Noise,
    Pitch,
    RandomResizeCrop,
    Speed,
    Views,
)
from sslkernels.data.raw import bands
from sslkernels.drawing import draw_spectrogram
from sslkernels.methods import BYOL
from sslkernels.models import SpectrogramNet
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.recipe import Recipe


def conv(dataset: Dataset, *, widths: tuple[int, ...] = (16, 32, 64)) -> SpectrogramNet:
    return SpectrogramNet(widths).to(memory_format=torch.channels_last)


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return AudioViews(count)


def mixed(dataset: Dataset, count: int, whole: bool, *, mixup: float = 0.4, memory: int = 2048) -> nn.Module:
    """BYOL-A's: a sound is mixed with past ones, then a part of its time and tones is stretched."""
    return Views(nn.Sequential(LogMixupExp(mixup, memory), RandomResizeCrop()), count)


def spoken(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    """The voice moves up or down, the speaker hurries or slows, and the room is noisy."""
    return Views(nn.Sequential(Pitch(), Speed(), Noise()), count)


MODALITY = Modality(
    "audio",
    data="words",
    encoders={"features": Encoder(conv)},
    views=views,
    raw=bands,
    small={"epochs": 10, "batch_size": 128, "lr": 2e-3},
    draw=draw_spectrogram,
)

# BYOL's numbers for the digits, and the paper's teacher moves too slowly for so few steps.
_SMALL = {**BYOL.small, **MODALITY.small, "epochs": 25, "batch_size": 64, "momentum": 0.97}

RECIPES = (
    Recipe(
        "byol_a",
        BYOL,
        MODALITY,
        paper="Niizumi et al. 2021",
        arxiv="2103.06695",
        data="words",
        views=mixed,
        options={"momentum": 0.99},
        small={**_SMALL, "memory": 512},
        paper_options={"epochs": 100, "batch_size": 256, "lr": 3e-4},
        seeds=(106,),
    ),
    Recipe(
        "byol_voice",
        BYOL,
        MODALITY,
        paper="Klapsas et al. 2022",
        arxiv="2204.03421",
        data="words",
        views=spoken,
        small=_SMALL,
        paper_options={"epochs": 100, "batch_size": 256, "lr": 3e-4},
        seeds=(35,),
        after_abstract=True,
    ),
)
