# SPDX-License-Identifier: Apache-2.0
"""Computes features of images with a frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_module, check_tensor, shape_of

BATCH = 256


@torch.no_grad()
def encode(backbone: nn.Module, images: Tensor) -> Tensor:
    """Compute features ``(N, D)`` of ``images (N, C, H, W)`` in evaluation mode, as float32 on the CPU."""
    device = _device("encode", backbone, images)
    with _modes_kept(backbone):
        backbone.eval()
        return torch.cat([backbone(batch.to(device)).float().cpu() for batch in images.split(BATCH)])


@torch.no_grad()
def calibrate_batchnorm(backbone: nn.Module, images: Tensor) -> None:
    """Set BatchNorm's running statistics to those of ``images`` by forward passes.

    An untrained encoder has none and looks worse than it is; a trained one has those of augmented views.
    """
    device = _device("calibrate_batchnorm", backbone, images)
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [copy.deepcopy(norm.state_dict()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # None takes the plain average over all batches
        with _modes_kept(backbone):
            backbone.train()
            for batch in images.split(BATCH):
                backbone(batch.to(device))
    except BaseException:
        for norm, state in zip(norms, before, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def _modes_kept(backbone: nn.Module) -> Iterator[None]:
    """Restore the mode of every part afterwards, so that a frozen part stays frozen."""
    modes = {module: module.training for module in backbone.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _device(function: str, backbone: nn.Module, images: Tensor) -> torch.device:
    """The backbone's device, or the CPU if it has no parameters."""
    check_module(function, "backbone", backbone)
    check_tensor(function, "images", images, "(N, C, H, W)")
    if images.dim() < 2 or not len(images):
        raise ValueError(f"{function}: images has shape {shape_of(images)}; pass at least one image, (N, C, H, W).")
    first = next(backbone.parameters(), None)
    return torch.device("cpu") if first is None else first.device
