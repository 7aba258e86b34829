# SPDX-License-Identifier: Apache-2.0
"""Samples to train and evaluate on, and the views of each that a method sees."""

from __future__ import annotations

from sslkernels.data.dataset import Dataset, Inputs
from sslkernels.data.graphs import Graphs
from sslkernels.data.pictures import Pictures
from sslkernels.data.readers import READERS
from sslkernels.data.spec import Spec, check_reader, load
from sslkernels.data.views import (
    AudioViews,
    BatchStyle,
    FourierStyle,
    GraphViews,
    ImageViews,
    Jitter,
    LogMixupExp,
    LowVariancePerturb,
    MultiCrop,
    Noise,
    OneView,
    Permuted,
    Pitch,
    RandomizedQuantization,
    RandomResizeCrop,
    Reversed,
    Scaled,
    Segments,
    SeriesViews,
    Shots,
    Speed,
    TableViews,
    TokenViews,
    TwoViews,
    Views,
    Warped,
)

__all__ = [
    "READERS",
    "AudioViews",
    "BatchStyle",
    "Dataset",
    "FourierStyle",
    "GraphViews",
    "Graphs",
    "ImageViews",
    "Inputs",
    "Jitter",
    "LogMixupExp",
    "LowVariancePerturb",
    "MultiCrop",
    "Noise",
    "OneView",
    "Permuted",
    "Pictures",
    "Pitch",
    "RandomResizeCrop",
    "RandomizedQuantization",
    "Reversed",
    "Scaled",
    "Segments",
    "SeriesViews",
    "Shots",
    "Spec",
    "Speed",
    "TableViews",
    "TokenViews",
    "TwoViews",
    "Views",
    "Warped",
    "check_reader",
    "load",
]
