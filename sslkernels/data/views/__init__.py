# SPDX-License-Identifier: Apache-2.0
"""Draws random views of samples, a file for each modality."""

from __future__ import annotations

from sslkernels.data.views.audio import AudioViews, LogMixupExp, Noise, Pitch, RandomResizeCrop, Speed
from sslkernels.data.views.drawn import Shots, Views
from sslkernels.data.views.fourier import BatchStyle, FourierStyle
from sslkernels.data.views.graphs import GraphViews
from sslkernels.data.views.images import ImageViews, OneView, TwoViews
from sslkernels.data.views.lowvariance import LowVariancePerturb
from sslkernels.data.views.multicrop import MultiCrop
from sslkernels.data.views.quantization import RandomizedQuantization
from sslkernels.data.views.segments import Segments
from sslkernels.data.views.series import Jitter, Permuted, Reversed, Scaled, SeriesViews, Warped
from sslkernels.data.views.tables import TableViews
from sslkernels.data.views.tokens import TokenViews

__all__ = [
    "AudioViews",
    "BatchStyle",
    "FourierStyle",
    "GraphViews",
    "ImageViews",
    "Jitter",
    "LogMixupExp",
    "LowVariancePerturb",
    "MultiCrop",
    "Noise",
    "OneView",
    "Permuted",
    "Pitch",
    "RandomResizeCrop",
    "RandomizedQuantization",
    "Reversed",
    "Scaled",
    "Segments",
    "SeriesViews",
    "Shots",
    "Speed",
    "TableViews",
    "TokenViews",
    "TwoViews",
    "Views",
    "Warped",
]
