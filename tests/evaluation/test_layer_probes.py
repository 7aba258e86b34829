# SPDX-License-Identifier: Apache-2.0
"""Every layer is probed on what it gives, and the mixture finds the layer that knows the labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkernels.evaluation import linear_probe, per_layer
from sslkernels.models import ResNet, ViT

LABELS = torch.arange(3).repeat(20)


def test_layers_are_probed_on_their_pooled_output():
    encoder = ResNet(1, (4, 6), (1, 1)).train()
    images = torch.rand(60, 1, 8, 8)
    found = per_layer(encoder, images, LABELS, images, LABELS)
    assert list(found.accuracy) == ["stages.0", "stages.1"] and found.mixed is None and encoder.training
    with torch.no_grad():
        encoder.eval()
        first = encoder.stages[0](encoder.stem(images)).mean((2, 3))
    assert found.accuracy["stages.0"] == linear_probe(first, LABELS, first, LABELS, shots=None)
    last = encoder(images).detach()
    assert found.accuracy["stages.1"] == linear_probe(last, LABELS, last, LABELS, shots=None)
    assert not any(module._forward_hooks for module in encoder.modules())


class Second(nn.Module):
    """Knows the labels in its second layer alone: the third throws them away."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Identity(), nn.Linear(6, 6)])
        nn.init.zeros_(self.layers[0].weight)
        nn.init.zeros_(self.layers[2].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[2](self.layers[1](self.layers[0](x) + x))


def test_the_mixture_weighs_the_layer_that_knows():
    rows = torch.randn(60, 6) + 4 * nn.functional.one_hot(LABELS, 6)
    found = per_layer(Second(), rows, LABELS, rows, LABELS)
    assert found.accuracy["layers.1"] > 0.9 > 0.5 > found.accuracy["layers.0"]
    assert found.mixed > 0.9 and max(found.weights, key=found.weights.get) == "layers.1"
    assert sum(found.weights.values()) == pytest.approx(1)


def test_tokens_are_averaged_and_a_pool_may_be_given():
    encoder = ViT((8, 8), 4, width=8, depth=2, heads=2, in_channels=1)
    images = torch.rand(60, 1, 8, 8)
    found = per_layer(encoder, images, LABELS, images, LABELS, shots=2, draws=2)
    assert list(found.accuracy) == ["encode.0", "encode.1", "encode.2"] and found.mixed is not None  # blocks, norm
    seen = []
    per_layer(encoder, images, LABELS, images, LABELS, pool=lambda output: (seen.append(output.dim()), output[:, 0])[1])
    assert set(seen) == {3}


def test_layers_that_cannot_be_probed_are_refused():
    encoder = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    rows = torch.randn(60, 6)
    for layers, said in [(["x"], "no such module"), ([], "layers is empty"), ("0", "layers is a str")]:
        with pytest.raises((TypeError, ValueError), match=f"^per_layer: .*{said}"):
            per_layer(encoder, rows, LABELS, rows, LABELS, layers)
    encoder.add_module("idle", nn.ModuleList([nn.Linear(1, 1)]))
    encoder.forward = lambda x: encoder[0](x)
    with pytest.raises(ValueError, match="^per_layer: layers has 'idle.0', which did not run"):
        per_layer(encoder, rows, LABELS, rows, LABELS, ["idle.0"])
    encoder[0].register_forward_hook(lambda module, given, output: {"last": output})
    encoder.forward = lambda x: encoder[0](x)["last"]
    with pytest.raises(TypeError, match="^per_layer: layers has '0', which pools to a dict; leave it out, or pass a"):
        per_layer(encoder, rows, LABELS, rows, LABELS, ["0"])
