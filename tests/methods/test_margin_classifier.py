# SPDX-License-Identifier: Apache-2.0
"""MarginClassifier against the formulas of ArcFace, CosFace, AdaCos and its sub-clusters."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sslkernels.methods import MarginClassifier
from sslkernels.models import ResNet

LABELS = [2, 0, -1, 1, 2, 1]


def formula(rows: torch.Tensor, centers: torch.Tensor, kind: str, margin: float, scale: float) -> torch.Tensor:
    """The mean over rows with a label; centers are (classes, subcenters, D)."""
    terms = []
    for row, label in zip(rows, LABELS, strict=True):
        if label < 0:
            continue
        below = []
        for k, own in enumerate(centers):
            cosines = F.cosine_similarity(row[None], own)
            if k == label:
                cosines = torch.cos(torch.arccos(cosines) + margin) if kind == "aam" else cosines - margin
            below.append((scale * cosines).exp().sum())
        terms.append(torch.stack(below).sum().log() - below[label].log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("subcenters", [1, 2])
@pytest.mark.parametrize(("kind", "margin", "scale"), [("aam", 0.2, 30.0), ("cos", 0.3, 5.0), ("aam", 0.0, None)])
def test_loss_and_gradients_are_those_of_the_papers(kind, margin, scale, subcenters):
    backbone = ResNet(1, (6,), (1,))
    options = {"kind": kind, "margin": margin, "scale": scale, "subcenters": subcenters}
    method = MarginClassifier(backbone, feature_dim=6, classes=3, **options).double()
    view = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    scale = math.sqrt(2) * math.log(3 * subcenters - 1) if scale is None else scale
    exact = formula(backbone(view), method.centers.view(3, subcenters, 6), kind, margin, max(1.0, scale))
    loss = method([view], label=torch.tensor(LABELS))["loss"]
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


def test_the_score_is_the_share_whose_nearest_center_is_their_class_s():
    method = MarginClassifier(nn.Flatten(), feature_dim=3, classes=2, subcenters=2).eval()
    method.centers.data = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 5], [-1, 0, 0]])
    rows = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 0, 2], [-1, 0, 0]])
    assert method.scores(rows, torch.tensor([0, 0, 0, 1])) == {"label_accuracy": 0.75}
    assert method.scores(rows, None) == {}


def test_what_cannot_be_told_apart_is_refused():
    for classes in (0, 1):
        with pytest.raises(ValueError, match=f"MarginClassifier: classes is {classes}; pass at least 2, of data with"):
            MarginClassifier(nn.Flatten(), feature_dim=3, classes=classes)
    method = MarginClassifier(nn.Flatten(), feature_dim=3, classes=2)
    with pytest.raises(ValueError, match="MarginClassifier: label has shape"):
        method([torch.rand(4, 3)], label=torch.zeros(3, dtype=torch.int64))
