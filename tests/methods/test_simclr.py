# SPDX-License-Identifier: Apache-2.0
"""SimCLR against its paper's formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import Method, SimCLR, available
from sslkernels.models import resnet_small


def test_loss_is_equation_one_of_the_paper():
    method = SimCLR(nn.Flatten(), feature_dim=64, temperature=0.5).double()
    views = torch.rand(5, 1, 8, 8).double(), torch.rand(5, 1, 8, 8).double()
    rows = F.normalize(torch.cat([method.projector(view.flatten(1)) for view in views]), dim=1)
    terms = []
    for i in range(10):
        similar = torch.exp(rows @ rows[i] / 0.5)
        terms.append(-torch.log(similar[(i + 5) % 10] / (similar.sum() - similar[i])))
    torch.testing.assert_close(method(views)["loss"], torch.stack(terms).mean())


def test_gradient_reaches_the_backbone_through_either_backend(backend):
    method = SimCLR(resnet_small(), feature_dim=128, backend=backend)
    method((torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)))["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert method.backbone.stem[0].weight.grad.any()


def test_backend_and_embeddings_are_those_of_the_loss():
    method = SimCLR(resnet_small(), feature_dim=128)
    out = method((torch.rand(8, 1, 8, 8), torch.rand(8, 1, 8, 8)))
    torch.testing.assert_close(method.loss(*out["embeddings"]), out["loss"])
    method.backend = "nowhere"
    with pytest.raises(ValueError, match="backend is 'nowhere'"):
        method.loss(*out["embeddings"])


def test_anything_but_two_views_is_refused():
    with pytest.raises(ValueError, match="SimCLR: 3 views came; pass two views"):
        SimCLR(nn.Flatten(), feature_dim=64)([torch.rand(4, 1, 8, 8)] * 3)


def test_available_names_methods():
    first = [
        "barlow_twins", "byol", "i_jepa", "mae", "moby", "moco_v2", "moco_v3", "simclr", "simsiam", "vicreg",
    ]  # fmt: skip
    assert [name for name in available() if name in first] == first
    assert issubclass(SimCLR, Method)
    assert SimCLR(nn.Flatten(), feature_dim=4).after_step(0, 1) is None
