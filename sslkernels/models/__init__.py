# SPDX-License-Identifier: Apache-2.0
"""Small backbones and the heads that methods put on them."""

from __future__ import annotations

from sslkernels.models.heads import ProjectionHead
from sslkernels.models.resnet import ResNet, resnet_small

__all__ = ["ProjectionHead", "ResNet", "resnet_small"]
