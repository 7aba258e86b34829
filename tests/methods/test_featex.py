# SPDX-License-Identifier: Apache-2.0
"""FeatEx against its paper's formula with soft targets, and how well it tells classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import FeatEx

LABELS = torch.tensor([2, 0, 1, 1, 2, 0, 0])


def featex(**options: Any) -> FeatEx:
    return FeatEx(nn.Flatten(), feature_dim=6, classes=3, **options).double()


def crossed(rows: Tensor, centers: Tensor, subcenters: int, target: Tensor) -> Tensor:
    """The cross-entropy of AdaCos with soft targets ``(N, classes)``."""
    scale = max(1.0, math.sqrt(2) * math.log(len(centers) - 1))
    cosines = (rows / rows.norm(dim=1, keepdim=True)) @ (centers / centers.norm(dim=1, keepdim=True)).T
    p = torch.softmax(scale * cosines, 1).view(len(rows), -1, subcenters).sum(2)
    return -(target * p.log()).sum(1).mean()


@pytest.mark.parametrize("subcenters", [1, 3])
@pytest.mark.parametrize("swap", [0.0, 0.5, 1.0])
def test_loss_and_gradients_are_the_formula_s(backend: str, subcenters: int, swap: float) -> None:
    method = featex(subcenters=subcenters, swap=swap, backend=backend)
    x = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(2)
    loss = method([x], label=LABELS)["loss"]
    torch.manual_seed(2)
    swapped = torch.rand(7) < swap
    rows, targets = [], torch.zeros(7, 9, dtype=torch.float64)
    for place in range(7):
        other = 6 - place if swapped[place] else place
        rows.append(torch.cat([x[place, :3], x[other, 3:]]))
        if swapped[place]:
            targets[place, 3 + LABELS[place]] = targets[place, 6 + LABELS[other]] = 0.5
        else:
            targets[place, LABELS[place]] = 1.0
    plain = crossed(x, method.fixed, subcenters, nn.functional.one_hot(LABELS, 3).double())
    exact = plain + crossed(torch.stack(rows), method.centers, subcenters, targets)
    torch.testing.assert_close(loss, exact)
    found, expected = (torch.autograd.grad(each, [x, method.centers]) for each in (loss, exact))
    torch.testing.assert_close(found, expected)


def test_a_sample_without_a_label_counts_for_nothing() -> None:
    method, label, swapped = featex(subcenters=2), torch.tensor([0, 1, -1, 2]), torch.tensor([True, False, False, True])
    rows = torch.randn(4, 6, dtype=torch.float64)
    changed = rows.clone()
    changed[2] = torch.randn(6)
    torch.testing.assert_close(method.loss(rows, label, swapped), method.loss(changed, label, swapped))


def test_fixed_centres_are_saved_and_not_trained_and_tell_classes() -> None:
    method = featex(subcenters=2)
    assert [name for name, _ in method.named_parameters()] == ["centers"] and "fixed" in method.state_dict()
    rows = 3 * method.fixed + 0.01
    assert method.scores(rows, torch.tensor([0, 0, 1, 1, 2, 0])) == {"label_accuracy": 5 / 6}
    assert method.scores(rows, None) == {}


def test_halves_need_an_even_number_of_features() -> None:
    with pytest.raises(ValueError, match=r"^FeatEx: feature_dim is 5; pass an even one"):
        FeatEx(nn.Flatten(), feature_dim=5, classes=3)
