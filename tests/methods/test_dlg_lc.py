# SPDX-License-Identifier: Apache-2.0
"""DLG-LC against its formula: whose label counts, who is corrected by the other view, and where the gate stands."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.methods import DLGLC
from sslkernels.methods.dlg_lc import meeting_point

LABELS = torch.tensor([2, 0, -1, 1, 2, 1, 0, 1])


def dlg_lc(**options: Any) -> DLGLC:
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    return DLGLC(backbone, feature_dim=5, samples=8, clusters=3, scale=6.0, **options).double()


def formula(method: DLGLC, views: list[Tensor], gate: float) -> tuple[Tensor, Tensor, list[str]]:
    """The loss, the loss of each sample's label, and what became of each view of each sample, one after another."""
    logits = [6.0 * F.cosine_similarity(method.backbone(v)[:, None], method.centers[None], dim=2) for v in views]
    total, own, fate = torch.zeros(()).double(), [], []
    for i, label in enumerate(LABELS.tolist()):
        told = []
        for each in logits if label >= 0 else []:
            moved = each[i].clone()
            moved[label] = 6.0 * torch.cos(torch.arccos(each[i, label] / 6.0) + 0.2)
            told.append(-torch.log_softmax(moved, 0)[label])
        own.append(sum(told) / 2 if told else torch.zeros(()).double())
        for v in range(2) if label >= 0 else []:
            other = logits[1 - v][i].detach()
            if own[i] < gate:
                total, what = total + told[v], "trusted"
            elif other.softmax(0).max() > 0.6:
                total, what = total - (torch.softmax(other / 0.4, 0) * logits[v][i].log_softmax(0)).sum(), "corrected"
            else:
                what = "left out"
            fate.append(what)
    return total / (2 * len(LABELS)), torch.stack(own), fate


def test_loss_and_gradients_are_the_formula_s(backend: str) -> None:
    method = dlg_lc(confidence=0.6, sharpen=0.4, backend=backend)
    method.pseudo.label.copy_(LABELS)
    method.pseudo.gate.fill_(1.5)
    views = [torch.rand(8, 1, 3, 4, dtype=torch.float64) - 0.5 for _ in range(2)]
    exact, own, fate = formula(method, views, 1.5)
    assert set(fate) == {"trusted", "corrected", "left out"}
    loss = method(views, index=torch.arange(8))["loss"]
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)
    assert method.pseudo.losses.isnan().all()
    method.after_step(0, 10)
    torch.testing.assert_close(method.pseudo.losses, own.detach())


@pytest.mark.parametrize(("deviations", "share"), [((0.3, 1.0), 0.7), ((0.7, 0.7), 0.9), ((0.9, 0.3), 0.2)])
def test_the_gate_is_where_two_gaussians_meet(deviations: tuple[float, float], share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    count = 20_000
    low = torch.normal(1.0, deviations[0], (round(share * count),), generator=generator)
    high = torch.normal(5.0, deviations[1], (round((1 - share) * count),), generator=generator)
    between = torch.linspace(1.0, 5.0, 40_001, dtype=torch.float64)
    first, second = (
        math.log(weight) + torch.distributions.Normal(mean, deviation).log_prob(between)
        for weight, mean, deviation in ((share, 1.0, deviations[0]), (1 - share, 5.0, deviations[1]))
    )
    exact = between[(first - second).abs().argmin()]
    assert meeting_point(torch.cat([low, high])) == pytest.approx(exact.item(), abs=0.07)


def test_the_gate_opens_with_new_labels_and_moves_between_them() -> None:
    method = dlg_lc(every=2)
    features = F.one_hot(torch.arange(8) % 3, 5).double() + 0.01
    method.before_epoch(lambda: features, 0, 4)
    assert len(method.pseudo.label.unique()) == 3 and method.pseudo.gate == math.inf
    torch.testing.assert_close(method.centers[method.pseudo.label], F.normalize(features, dim=1).float().double())
    method.pseudo.losses.copy_(torch.tensor([0.1, 0.2, 0.15, 0.25, 0.2, 3.0, 3.1, 2.9]))
    method.before_epoch(lambda: pytest.fail("nobody needs features now"), 1, 4)
    assert 0.25 < method.pseudo.gate < 2.9
    again = dlg_lc()
    again.load_state_dict(method.state_dict())
    assert again.pseudo.gate == method.pseudo.gate and torch.equal(again.pseudo.losses, method.pseudo.losses)
    method.before_epoch(lambda: features, 2, 4)
    assert method.pseudo.gate == math.inf and method.pseudo.losses.isnan().all()


def test_of_a_sample_that_comes_twice_the_larger_loss_is_written() -> None:
    method = dlg_lc()
    method.pseudo.write(torch.tensor([2, 5, 2]), torch.tensor([0.5, 1.0, 0.25]).double(), None)
    assert method.pseudo.losses[[2, 5]].tolist() == [0.5, 1.0]
