# SPDX-License-Identifier: Apache-2.0
"""SliceCluster is DeepCluster-v2's loss, a volume's with its slice's cluster, and the error of hidden slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.methods import SliceCluster
from sslkernels.models.volume import VolumeNet
from sslkernels.recipes import find

INDEX = torch.tensor([4, 0, 7, 2])


def slice_cluster(**options: Any) -> SliceCluster:
    torch.manual_seed(5)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(18, 6))
    sizes = {"projection_dim": 8, "hidden_dim": 7, "prototypes": 3, "clusterings": 2}
    encoders: dict[str, nn.Module] = {"volume": VolumeNet(2, (4, 6))}
    made = SliceCluster(backbone, feature_dim=6, samples=9, encoders=encoders, **sizes, **options).double()
    made.clusters.prototypes.copy_(F.normalize(torch.randn(2, 3, 8), dim=2))
    made.clusters.targets.copy_(torch.randint(3, (2, 9)))
    nn.init.normal_(made.mask_token)
    return made


def told(method: SliceCluster, rows: Tensor) -> Tensor:
    """The mean over clusterings and rows of the cross-entropy with the cluster of the slice."""
    terms = [
        F.cross_entropy(F.normalize(rows, dim=1) @ centroids.T / 0.1, own[INDEX])
        for centroids, own in zip(method.clusters.prototypes, method.clusters.targets, strict=True)
    ]
    return sum(terms) / len(terms)


def test_loss_and_gradients_are_the_formula_s(backend: str) -> None:
    method = slice_cluster(agreement=0.7, masked=3.0, hidden=0.5, backend=backend)
    views = [torch.rand(4, 2, 3, 3, dtype=torch.float64) for _ in range(2)]
    volume = torch.rand(4, 2, 5, 3, 3, dtype=torch.float64)
    torch.manual_seed(11)
    loss = method(views, index=INDEX, volume=volume)["loss"]
    torch.manual_seed(11)
    hidden = torch.rand(4, 5).argsort(1)[:, :2].tolist()
    where = torch.arange(5.0).double()[:, None] / 10_000 ** (torch.arange(0, 8, 2) / 8).double()
    exact = sum(told(method, method.projector(method.backbone(view))) for view in views) / 2
    exact = exact + 0.7 * told(method, method.solid_projector(method.encoders["volume"](volume)))
    slices = torch.stack([volume[i, :, k] for i in range(4) for k in range(5)])  # one batch for the batch norm
    embedded = F.normalize(method.projector(method.backbone(slices)), dim=1).view(4, 5, 8)
    for slices, places in zip(embedded, hidden, strict=True):
        seen = torch.stack([method.mask_token if k in places else row for k, row in enumerate(slices)])
        found = method.predictor((seen + torch.cat([where.sin(), where.cos()], 1))[None])[0]
        exact = exact + 3.0 * sum((found[k] - slices[k].detach()).square().mean() for k in places) / 2 / 4
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        assert found.any()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("hidden", "count"), [(0.0, 1), (0.4, 2), (1.0, 4)])
def test_at_least_one_slice_is_hidden_and_one_seen(hidden: float, count: int) -> None:
    predicted, rows = slice_cluster(hidden=hidden).predicted(torch.rand(3, 5, 8).double())
    assert predicted.shape == rows.shape == (3, count, 8)


def test_what_is_no_volume_of_each_slice_is_refused() -> None:
    method = slice_cluster()
    views = [torch.rand(4, 2, 3, 3).double()] * 2
    for shape in ((4, 2, 3, 3), (3, 2, 5, 3, 3), (4, 2, 1, 3, 3)):
        with pytest.raises(ValueError, match="SliceCluster: volume has shape .*; expected \\(4, C, D, H, W\\)"):
            method(views, index=INDEX, volume=torch.rand(shape).double())
    with pytest.raises(ValueError, match="SliceCluster: encoders has .*; pass one of 'volume' alone"):
        SliceCluster(nn.Flatten(), feature_dim=18, samples=9, encoders={"text": VolumeNet(1, (4,))})


def test_views_of_a_recipe_leave_the_middle_of_a_slice_where_it_is() -> None:
    slices = torch.zeros(256, 1, 24, 24)
    slices[..., 8:16, 8:16] = 1
    views = find("slice_cluster").views
    assert views is not None
    first, second = views(None, 2, True)(slices)
    assert not torch.equal(first, second)
    # Some lose it with a patch; views of writing keep 0.6.
    assert (first[..., 11:13, 11:13].mean((1, 2, 3)) > 0.99).double().mean() > 0.75
