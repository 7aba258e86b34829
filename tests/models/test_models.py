# SPDX-License-Identifier: Apache-2.0
"""Backbones and heads: shapes, sizes of images, and what they may import."""

from __future__ import annotations

import pytest
import torch

from sslkernels.models import ProjectionHead, ResNet, ViT, resnet_small


@pytest.mark.parametrize("size", [(8, 8), (7, 11), (32, 32)])
def test_resnet_takes_images_of_any_size(size):
    features = resnet_small(in_channels=3)(torch.rand(2, 3, *size))
    assert features.shape == (2, 128)
    assert features.isfinite().all()


def test_widths_and_blocks_decide_the_stages():
    backbone = ResNet(1, widths=(8, 16), blocks=(1, 3))
    assert backbone.feature_dim == 16
    assert len(backbone.stages) == 4
    assert backbone.stages(torch.rand(1, 8, 8, 8)).shape == (1, 16, 4, 4)


def test_every_parameter_receives_a_gradient():
    backbone = resnet_small()
    backbone(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())


def test_unequal_widths_and_blocks_are_refused():
    with pytest.raises(ValueError, match=r"ResNet: widths is \(8, 16\) and blocks \(1,\); pass one of each"):
        ResNet(1, widths=(8, 16), blocks=(1,))


def test_projection_normalises_over_the_batch():
    head = ProjectionHead(8, 16, 4)
    rows = torch.randn(32, 8)
    assert head(rows).shape == (32, 4)
    torch.testing.assert_close(head(rows), head(rows * 3 + 1), atol=2e-3, rtol=1e-3)


def test_projection_has_as_many_layers_as_asked():
    head = ProjectionHead(8, 16, 4, layers=3, bias=False)
    shapes = [tuple(layer.weight.shape) for layer in head if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(16, 8), (16, 16), (4, 16)] and head[-1].bias is None
    assert ProjectionHead(8, 16, 4, layers=1)(torch.randn(3, 8)).shape == (3, 4)
    assert [name for name, _ in ProjectionHead(8, 16, 4).named_parameters()] == [
        "0.weight", "1.weight", "1.bias", "3.weight", "3.bias",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="ProjectionHead: layers is 0; pass a whole number of at least 1"):
        ProjectionHead(8, 16, 4, layers=0)


def test_models_and_methods_need_torch_alone(run_python):
    done = run_python(
        "import sys, sslkernels.models, sslkernels.methods, sslkernels.cli\n"
        "print(*{'lightning', 'kornia', 'sklearn', 'matplotlib', 'PIL'} & set(sys.modules))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("shape", [(2, 1, 4, 16), (2, 1, 16, 16), (2, 3, 8, 8)])
def test_vit_refuses_images_of_another_grid(shape):
    """Some of them have equally many patches, and would get the positions of other places."""
    vit = ViT((8, 8), 2, 1, width=16, depth=1, heads=2)
    for index in (None, torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"ViT: images have shape .*; it was made for \(N, 1, 8, 8\)"):
            vit.embed(torch.rand(shape), index)
