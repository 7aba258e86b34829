# SPDX-License-Identifier: Apache-2.0
"""Small backbones and the heads that methods put on them."""

from __future__ import annotations

from sslkernels.models.direct_pred import DirectPred
from sslkernels.models.heads import ProjectionHead
from sslkernels.models.resnet import ResNet, resnet_small
from sslkernels.models.vit import Transformer, ViT, patchify, sincos_positions, unpatchify

__all__ = [
    "DirectPred",
    "ProjectionHead",
    "ResNet",
    "Transformer",
    "ViT",
    "patchify",
    "resnet_small",
    "sincos_positions",
    "unpatchify",
]
