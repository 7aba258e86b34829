# SPDX-License-Identifier: Apache-2.0
"""Sounds: log-mel spectrograms float32 ``(N, 1, mels, frames)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sslkernels.data import (
    AudioViews,
    Dataset,
    LogMixupExp,
    Noise,
    Pitch,
    RandomResizeCrop,
    Segments,
    Speed,
    Views,
)
from sslkernels.data.raw import bands
from sslkernels.drawing import draw_spectrogram
from sslkernels.methods import BYOL, CADINO, DINO, DLGLC, FeatEx, Method, SimCLR
from sslkernels.models import SpectrogramNet
from sslkernels.models.spectrogram import SpectralBranches
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.recipe import Recipe


def conv(dataset: Dataset, *, widths: tuple[int, ...] = (16, 32, 64)) -> SpectrogramNet:
    return SpectrogramNet(widths).to(memory_format=torch.channels_last)


def branches(dataset: Dataset, *, widths: tuple[int, ...] = (16, 32, 64)) -> SpectralBranches:
    return SpectralBranches(dataset.inputs.shape[2], widths)


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return AudioViews(count)


def mixed(dataset: Dataset, count: int, whole: bool, *, mixup: float = 0.4, memory: int = 2048) -> nn.Module:
    """BYOL-A's: a sound is mixed with past ones, then a part of its time and tones is stretched."""
    return Views(nn.Sequential(LogMixupExp(mixup, memory), RandomResizeCrop()), count)


def spoken(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    """The voice moves up or down, the speaker hurries or slows, and the room is noisy."""
    return Views(nn.Sequential(Pitch(), Speed(), Noise()), count)


def segments(
    dataset: Dataset,
    count: int,
    whole: bool,
    *,
    small_views: int = 0,
    long_share: float = 0.8,
    small_share: float = 0.5,
) -> nn.Module:
    """Two long segments of an utterance and so many short ones, in noisy rooms: the voice is the same in all."""
    return Segments(Noise(), 2, small_views, long_share, small_share)


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


def of_speakers(name: str, method: type[Method], small: Mapping[str, Any] | None = None, **changed: Any) -> Recipe:
    """The method on segments of utterances, by who speaks."""
    return Recipe(
        name, method, MODALITY, data="voices", views=segments,
        small={**method.small, **MODALITY.small, "batch_size": 64, **(small or {})},
        paper_options=method.paper_options, after_abstract=True, **changed,
    )  # fmt: skip


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
    of_speakers("speaker_simclr", SimCLR, paper="Miara et al. 2024", arxiv="2406.02285", seeds=(100,)),
    of_speakers("speaker_dino", DINO, paper="Miara et al. 2024", arxiv="2406.02285"),
    of_speakers(
        "ca_dino",
        CADINO,
        # Clusters of fresh features are of no voices, and a teacher that grows less sure of late is sure of nothing.
        {"epochs": 20, "cluster_from": 6, "teacher_temperature": (0.04, 0.04)},
        paper=CADINO.paper,
        arxiv=CADINO.arxiv,
        seeds=CADINO.seeds,
    ),
    # It begins with a trained backbone, and larger steps lose what that knows. Of 40 clusters a third of each is one
    # voice's, of 300 two thirds.
    of_speakers("dlg_lc", DLGLC, {"lr": 5e-4, "clusters": 300}, paper=DLGLC.paper, arxiv=DLGLC.arxiv),
    Recipe.plain("featex", FeatEx, MODALITY, data="instruments", encoder=Encoder(branches), small=FeatEx.small),
)
