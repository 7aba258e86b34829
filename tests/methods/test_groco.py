# SPDX-License-Identifier: Apache-2.0
"""GroCo against its paper's formula, anchor by anchor."""

from __future__ import annotations

import formulas
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import GroCo
from sslkernels.models import ResNet


def groco(**options) -> GroCo:
    return GroCo(ResNet(1, (6,), (1,)), feature_dim=6, projection_dim=5, **options).double()


def formula(embeddings: list[Tensor], negatives: int, steepness: float) -> Tensor:
    """Sort with all other images of the view, as many of them as are most similar."""
    losses = []
    for view, anchors in enumerate(embeddings):
        others = [rows for place, rows in enumerate(embeddings) if place != view]
        for i, anchor in enumerate(anchors):
            near = [F.cosine_similarity(anchor, other.detach(), dim=0) for j, other in enumerate(anchors) if j != i]
            near = sorted(near, key=lambda value: value.item())[-negatives:]
            own = [F.cosine_similarity(anchor, rows[i].detach(), dim=0) for rows in others]
            losses.append(formulas.group_ordering(torch.stack([*near, *own])[None], len(own), steepness))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("views", "negatives"), [(2, 3), (2, 10), (3, 2)])
def test_loss_and_gradients_are_those_of_the_paper(views: int, negatives: int, backend: str) -> None:
    method = groco(negatives=negatives, steepness=2.0, backend=backend)
    out = method([torch.rand(6, 1, 8, 8, dtype=torch.float64) for _ in range(views)])
    exact = formula(list(out["embeddings"]), negatives, 2.0)
    torch.testing.assert_close(out["loss"], exact)
    weights = list(method.parameters())
    found = torch.autograd.grad(out["loss"], weights, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient.any() for gradient in found)


def test_one_image_or_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="GroCo: views have one sample; pass two or more"):
        groco().eval()([torch.rand(1, 1, 8, 8, dtype=torch.float64)] * 2)
    with pytest.raises(ValueError, match="GroCo: 1 views came; pass 2 views of the same samples"):
        groco()([torch.rand(4, 1, 8, 8)])
