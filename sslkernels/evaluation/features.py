# SPDX-License-Identifier: Apache-2.0
"""Features of images under a frozen backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCH = 256


@torch.no_grad()
def encode(backbone: nn.Module, images: Tensor) -> Tensor:
    """Features ``(N, D)`` of ``images (N, C, H, W)`` in evaluation mode, float32 on the CPU."""
    device = next(backbone.parameters()).device
    training = [module for module in backbone.modules() if module.training]
    backbone.eval()
    features = [backbone(batch.to(device)).float().cpu() for batch in images.split(BATCH)]
    for module in training:  # a part that was frozen stays so
        module.training = True
    return torch.cat(features)


@torch.no_grad()
def calibrate_batchnorm(backbone: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's running statistics to those of ``images`` by forward passes.

    An untrained encoder has none and looks worse than it is; a trained one has those of augmented views.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    device = next(backbone.parameters()).device
    training = backbone.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    backbone.train()
    for batch in images.split(BATCH):
        backbone(batch.to(device))
    backbone.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
