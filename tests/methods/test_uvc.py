# SPDX-License-Identifier: Apache-2.0
"""UVC against its loss, written place by place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import UVC
from sslkernels.models import ResNet
from sslkernels.terms.colour import lab

PLACES = torch.cartesian_prod(torch.linspace(0, 1, 2), torch.linspace(0, 1, 3)).double()


def formula(rows: list[Tensor], colours: list[Tensor]) -> Tensor:
    lost, variance, back = [], [], []
    for f0, f1, c0, c1 in zip(*rows, *colours, strict=True):
        f0, f1 = F.normalize(f0, dim=1), F.normalize(f1, dim=1)
        a, b = (f1 @ f0.T / 0.3).softmax(1), (f0 @ f1.T / 0.3).softmax(1)
        lost.append((a @ c0 - c1).abs().mean())
        for weights in a:
            middle = (weights[:, None] * PLACES).sum(0)
            variance.append((weights * (PLACES - middle).square().sum(1)).sum())
        back.append((b @ a @ c0 - c0).abs().mean() + (b @ a @ PLACES - PLACES).abs().mean())
    return torch.stack(lost).mean() + 2 * torch.stack(variance).mean() + 0.5 * torch.stack(back).mean()


def test_loss_and_gradients_are_those_of_the_formula(backend: str) -> None:
    backbone = ResNet(3, (4, 6), (1, 1))
    method = UVC(backbone, feature_dim=6, temperature=0.3, concentration=2, orthogonality=0.5, backend=backend).double()
    frames = [torch.rand(3, 3, 4, 6, dtype=torch.float64) for _ in range(2)]
    light = [
        (frame * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)).sum(1, keepdim=True)
        for frame in frames
    ]
    rows = [backbone.feature_grid(each.expand(-1, 3, -1, -1)).flatten(2).mT for each in light]
    exact = formula(rows, [F.avg_pool2d(lab(frame), 2).flatten(2).mT for frame in frames])
    loss = method(frames)["loss"]
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


def test_colours_are_those_of_kornia() -> None:
    color = pytest.importorskip("kornia.color")
    images = torch.cat([torch.rand(2, 3, 5, 5), torch.zeros(1, 3, 5, 5), torch.ones(1, 3, 5, 5)])
    torch.testing.assert_close(100 * lab(images), color.rgb_to_lab(images), rtol=1e-3, atol=2e-2)


def test_places_that_know_each_other_lend_the_right_colours() -> None:
    method = UVC(ResNet(3, (4,), (1,)), feature_dim=4, temperature=1e-3)
    order = torch.randperm(6)
    rows, colours = torch.eye(6)[None], torch.rand(1, 6, 3)
    torch.testing.assert_close(method.lent(rows, rows[:, order], colours), colours[:, order])


def test_images_without_colour_are_refused() -> None:
    with pytest.raises(ValueError, match=r"UVC: views\[0\] has shape \(2, 1, 8, 8\); pass colour images"):
        UVC(ResNet(3, (4,), (1,)), feature_dim=4)([torch.rand(2, 1, 8, 8)] * 2)
