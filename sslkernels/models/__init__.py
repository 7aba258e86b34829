# SPDX-License-Identifier: Apache-2.0
"""Small backbones for each modality, and the heads that methods put on them."""

from __future__ import annotations

from sslkernels.models.columns import ColumnTransformer
from sslkernels.models.conv1d import Conv1dNet
from sslkernels.models.dino_head import DINOHead
from sslkernels.models.direct_pred import DirectPred
from sslkernels.models.gin import GIN
from sslkernels.models.heads import ProjectionHead
from sslkernels.models.oriented import OrientedFilters
from sslkernels.models.resnet import ResNet, resnet_small
from sslkernels.models.spectrogram import SpectrogramNet
from sslkernels.models.tokens import TokenTransformer
from sslkernels.models.vit import Transformer, ViT, patchify, sincos_positions, unpatchify

__all__ = [
    "GIN",
    "ColumnTransformer",
    "Conv1dNet",
    "DINOHead",
    "DirectPred",
    "OrientedFilters",
    "ProjectionHead",
    "ResNet",
    "SpectrogramNet",
    "TokenTransformer",
    "Transformer",
    "ViT",
    "patchify",
    "resnet_small",
    "sincos_positions",
    "unpatchify",
]
