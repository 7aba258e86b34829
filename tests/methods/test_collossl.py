# SPDX-License-Identifier: Apache-2.0
"""ColloSSL against its paper's weighted loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import ColloSSL
from sslkernels.methods.collossl import discrepancies
from sslkernels.models import Conv1dNet
from sslkernels.recipes.series import EachChannel


def series() -> torch.Tensor:
    """Four devices of two channels; the second is most like the fourth, and the first like the third."""
    spread = torch.tensor([1.0, 3.0, 1.2, 2.7], dtype=torch.float64).repeat_interleave(2)
    return torch.randn(9, 8, 20, dtype=torch.float64) * spread[:, None]


def discrepancy(x: torch.Tensor, y: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    def mean(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.exp(-(r - c).square().sum() / width) for r in a for c in b]).mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def formula(features: torch.Tensor, view: torch.Tensor, count: int, temperature: float) -> torch.Tensor:
    lengths = [part.square().sum(1).sqrt() for part in view.chunk(count, 1)]
    every = torch.cat(lengths)
    width = torch.stack([(a - b).square().sum() for a in every for b in every]).mean()
    parts, terms = features.chunk(count, 1), []
    for a in range(count):
        away = {b: discrepancy(lengths[a], lengths[b], width) for b in range(count) if b != a}
        p, *negatives = sorted(away, key=lambda b: away[b])[:3]
        for i in range(len(view)):
            cosine = {
                b: torch.stack([F.cosine_similarity(parts[a][i], row, dim=0) for row in parts[b]]) / temperature
                for b in away
            }
            near = cosine[p][i].exp() / away[p]
            far = sum(cosine[n][j].exp() / away[n] for n in negatives for j in range(len(view)) if j != i)
            terms.append(torch.log(near + far) - torch.log(near))
    return torch.stack(terms).mean()


def test_loss_and_gradients_are_those_of_the_formula(backend):
    backbone = EachChannel(Conv1dNet(1, (3,), 5), 8)
    method = ColloSSL(backbone, feature_dim=24, sensors=4, temperature=0.7, backend=backend).double()
    view = series()
    loss, exact = method([view])["loss"], formula(backbone(view), view, 4, 0.7)
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


def test_with_three_devices_one_is_negative():
    method = ColloSSL(nn.Flatten(), feature_dim=60, sensors=3, temperature=0.7).double()
    view = series()[:, :3]
    torch.testing.assert_close(method([view])["loss"], formula(view.flatten(1), view, 3, 0.7))


def test_devices_that_measure_alike_are_near(backend):
    lengths = [part.norm(dim=1) for part in series().chunk(4, 1)]
    away = discrepancies(lengths, backend)
    assert away.argsort(1)[:, 1].tolist() == [2, 3, 0, 1] and not away.diagonal().any()
    torch.testing.assert_close(away, away.T)
    far = discrepancies([row.float() + 1000 for row in lengths], backend)
    torch.testing.assert_close(far.double(), away, rtol=1e-3, atol=1e-4)  # wherever they lie


def test_what_cannot_be_divided_among_devices_is_refused():
    with pytest.raises(
        ValueError, match="ColloSSL: feature_dim is 10 and sensors 3; pass a backbone with equally many"
    ):
        ColloSSL(nn.Flatten(), feature_dim=10, sensors=3)
    method = ColloSSL(nn.Flatten(), feature_dim=80, sensors=4)
    for wrong in (torch.rand(3, 6, 20), torch.rand(3, 4, 5, 4)):
        with pytest.raises(ValueError, match="ColloSSL: a view has shape .*; pass series"):
            method.check_views([wrong])
