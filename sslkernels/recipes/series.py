# SPDX-License-Identifier: Apache-2.0
"""Time series: float32 ``(N, C, T)``, each channel with mean 0 and deviation 1 over the training set."""

from __future__ import annotations

from torch import Tensor, nn

from sslkernels.data import Dataset, RandomizedQuantization, SeriesViews, Views
from sslkernels.data.raw import channels
from sslkernels.drawing import draw_lines
from sslkernels.methods import BYOL, ColloSSL, HaLP, Pretext
from sslkernels.models import Conv1dNet
from sslkernels.recipes.modality import Encoder, Modality
from sslkernels.recipes.recipe import Recipe


def conv(dataset: Dataset, *, widths: tuple[int, ...] = (32, 64, 128), kernel: int = 7) -> Conv1dNet:
    return Conv1dNet(dataset.inputs.shape[1], widths, kernel)


class EachChannel(nn.Module):
    """One network for all channels: series ``(N, C, T)`` to features ``(N, C * width)``, one channel after the other.

    >>> import torch
    >>> EachChannel(Conv1dNet(1), 6)(torch.randn(2, 6, 100)).shape
    torch.Size([2, 768])
    """

    def __init__(self, network: Conv1dNet, channels: int) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = channels * network.feature_dim

    def forward(self, series: Tensor) -> Tensor:
        return self.network(series.flatten(0, 1)[:, None]).view(len(series), -1)


def each_channel(dataset: Dataset, *, widths: tuple[int, ...] = (16, 32, 64), kernel: int = 7) -> EachChannel:
    return EachChannel(Conv1dNet(1, widths, kernel), dataset.inputs.shape[1])


def views(dataset: Dataset, count: int, whole: bool) -> nn.Module:
    return SeriesViews(count)


def quantised(dataset: Dataset, count: int, whole: bool, *, regions: int = 8) -> nn.Module:
    """Random quantization alone, for data of which nobody knows what may change."""
    return Views(RandomizedQuantization(regions), count)


MODALITY = Modality(
    "series",
    data="watch",
    encoders={"features": Encoder(conv)},
    views=views,
    raw=channels,
    small={"epochs": 15, "batch_size": 128, "lr": 2e-3},
    draw=draw_lines,
)

RECIPES = (
    Recipe(
        "har_multitask",
        Pretext,
        MODALITY,
        paper="Yuan et al. 2024",
        arxiv="2206.02909",
        data="watch",
        options={"tasks": ("reversal", "permutation", "warp")},
        small={**Pretext.small, **MODALITY.small, "epochs": 40},
        paper_options={"epochs": 20, "batch_size": 1500, "lr": 1e-4},
        seeds=(34,),
    ),
    Recipe(
        "o3n",
        Pretext,
        MODALITY,
        paper="Fernando et al. 2017",
        arxiv="1611.06646",
        data="watch",
        options={"tasks": ("odd_one_out",)},
        small={**Pretext.small, **MODALITY.small, "epochs": 20},
        paper_options={"epochs": 100, "batch_size": 128, "lr": 1e-3},
        seeds=(67,),
    ),
    # Each axis of the two sensors is a device here: recordings of several devices at once come with no package.
    Recipe(
        "collossl",
        ColloSSL,
        MODALITY,
        paper=ColloSSL.paper,
        arxiv=ColloSSL.arxiv,
        data="watch",
        encoder=Encoder(each_channel),
        small={**ColloSSL.small, **MODALITY.small},
        paper_options=ColloSSL.paper_options,
        seeds=ColloSSL.seeds,
        after_abstract=True,
    ),
    Recipe(
        "halp",
        HaLP,
        MODALITY,
        paper=HaLP.paper,
        arxiv=HaLP.arxiv,
        data="watch",
        small={**HaLP.small, **MODALITY.small},
        paper_options=HaLP.paper_options,
        seeds=HaLP.seeds,
    ),
    Recipe(
        "rq_byol",
        BYOL,
        MODALITY,
        paper="Wu et al. 2022",
        arxiv="2212.08663",
        data="watch",
        views=quantised,
        small={**BYOL.small, **MODALITY.small},
        paper_options=BYOL.paper_options,
    ),
)
