# SPDX-License-Identifier: Apache-2.0
"""Judges an encoder without labels, by how well a linear probe on it tells how images were turned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_module, check_rows, shape_of
from sslkernels.evaluation.features import encode
from sslkernels.evaluation.labelled import labelled_rows
from sslkernels.evaluation.linear import fit_linear


def rotation_probe(backbone: nn.Module, images: Tensor, test_images: Tensor) -> float:
    """Tell quarter turns of images apart by a logistic regression on frozen features (Reed et al. 2021).

    Each image is turned by 0, 90, 180 and 270 degrees, and the probe is fit to the number of turns of ``images``. Its
    accuracy on ``test_images``, 1/4 for chance, ranks encoders much as a probe with labels does, so that augmentations
    can be chosen by it (`search_augmentations`). It misleads where images look alike after a turn, and for encoders
    that were trained to ignore turns.

    Args:
        backbone: images to features ``(N, D)``.
        images, test_images: ``(N, C, H, W)`` and ``(M, C, H, W)``, squares.

    Raises:
        ValueError, TypeError: images that are no squares, no image.

    Cost: four forward passes over all images, and a fit of 4 N rows.

    >>> import torch
    >>> from torch import nn
    >>> from sslkernels.evaluation import rotation_probe
    >>> images = torch.zeros(20, 1, 4, 4)
    >>> images[:, :, 0] = 1
    >>> rotation_probe(nn.Flatten(), images, images[:5])
    1.0
    """
    function = "rotation_probe"
    check_module(function, "backbone", backbone)
    for name, given in (("images", images), ("test_images", test_images)):
        check_rows(function, name, given, "(N, C, H, W), squares", dims=4)
        if not given.numel() or given.shape[2] != given.shape[3]:
            raise ValueError(f"{function}: {name} has shape {shape_of(given)}; pass at least one square image.")
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"{function}: test_images has shape {shape_of(test_images)} and images {shape_of(images)}; "
            "both need the same channels and size."
        )
    (rows, turns), (test_rows, test_turns) = (_turned(backbone, given) for given in (images, test_images))
    rows, test_rows = labelled_rows(function, rows, turns, test_rows, test_turns)
    return float((fit_linear(rows, turns)(test_rows) == test_turns).double().mean())


def _turned(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    rows = [encode(backbone, torch.rot90(images, turns, (2, 3))) for turns in range(4)]
    return torch.cat(rows), torch.arange(4).repeat_interleave(len(images))
