# SPDX-License-Identifier: Apache-2.0
"""PMSN is MSN with the divergence from a power law in place of that from all prototypes alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslkernels.methods import MSN, PMSN
from sslkernels.models import ViT


def pmsn(kind: type[MSN] = PMSN, **options: Any) -> MSN:
    torch.manual_seed(3)
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, any_size=True)
    sizes = {"prototypes": 7, "hidden_dim": 8, "projection_dim": 5, "mask_ratio": 0.0}
    made = kind(vit, feature_dim=8, **sizes, **options).double()
    for parameter in made.teacher.parameters():  # so that the teacher differs from its student
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def views() -> list[Tensor]:
    return [torch.rand(9, 1, side, side, dtype=torch.float64) for side in (8, 8, 4)]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


def formula(method: PMSN, given: list[Tensor], exponent: float, weight: float) -> Tensor:
    """Nothing is hidden, and targets are not spread."""
    prototypes = unit(method.prototypes.weight)
    anchors = unit(method.projector(torch.cat([method.backbone(view) for view in given[1:]])))
    p = torch.softmax(anchors @ prototypes.T / 0.1, 1)
    target = torch.softmax(unit(method.teacher.module(given[0])) @ prototypes.T / 0.025, 1).detach()
    q = [1 / k**exponent for k in range(1, 8)]
    divergence = sum(
        share / sum(q) * (torch.tensor(share / sum(q)).double() / mean).log()
        for share, mean in zip(q, p.mean(0), strict=True)
    )
    return -(target.repeat(2, 1) * p.log()).sum(1).mean() + weight * divergence


@pytest.mark.parametrize(("exponent", "weight"), [(0.25, 1.0), (2.0, 0.5)])
def test_loss_and_gradients_are_those_of_the_formula(backend: str, exponent: float, weight: float) -> None:
    method = pmsn(exponent=exponent, me_max=weight, sinkhorn=False, backend=backend)
    given = views()
    loss, exact = method(given)["loss"], formula(method, given, exponent, weight)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_its_state_is_that_of_msn() -> None:
    assert pmsn().state_dict().keys() == pmsn(MSN).state_dict().keys()
