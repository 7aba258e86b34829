# SPDX-License-Identifier: Apache-2.0
"""Features of images under a frozen backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_module, check_tensor, shape_of

BATCH = 256


@torch.no_grad()
def encode(backbone: nn.Module, images: Tensor) -> Tensor:
    """Features ``(N, D)`` of ``images (N, C, H, W)`` in evaluation mode, float32 on the CPU."""
    device = _device("encode", backbone, images)
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
    device = _device("calibrate_batchnorm", backbone, images)
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
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


def _device(function: str, backbone: nn.Module, images: Tensor) -> torch.device:
    """Where the backbone is; the CPU for one without parameters."""
    check_module(function, "backbone", backbone)
    check_tensor(function, "images", images, "(N, C, H, W)")
    if images.dim() < 2 or not len(images):
        raise ValueError(f"{function}: images has shape {shape_of(images)}; pass at least one image, (N, C, H, W).")
    first = next(backbone.parameters(), None)
    return torch.device("cpu") if first is None else first.device
