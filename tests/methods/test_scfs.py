# SPDX-License-Identifier: Apache-2.0
"""SCFS against its official code's formulas in float64, written out stage by stage and crop by crop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import SCFS
from sslkernels.models import ResNet


def scfs(**options: Any) -> SCFS:
    """Make a method whose teacher and centres have moved."""
    sizes = {"prototypes": 7, "hidden_dim": 6, "projection_dim": 5, "stages": 2}
    made = SCFS(ResNet(1, (4, 6, 8), (1, 2, 1)), feature_dim=8, **sizes, **options).double()
    for parameter in made.teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    made(crops(1))
    made.after_step(3, 10)
    return made


def crops(small: int, n: int = 6) -> list[Tensor]:
    return [torch.rand(n, 1, side, side, dtype=torch.float64) for side in (8, 8, *[4] * small)]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


def head(search: nn.Module, grid: Tensor) -> Tensor:
    places = torch.relu(search.bottleneck(grid) + grid)
    return unit(search.projector(places.flatten(2).mean(2)))


def stages(resnet: ResNet, images: Tensor) -> list[Tensor]:
    """The last two of three stages with one, two and one blocks."""
    first = resnet.stages[0](resnet.stem(images))
    second = resnet.stages[2](resnet.stages[1](first))
    return [second, resnet.stages[3](second)]


def formula(method: SCFS, views: list[Tensor]) -> Tensor:
    temperature, large = float(method.teacher_temperature), torch.cat(views[:2])
    teacher, group, *taught = method.teacher.module
    mine, theirs = stages(method.backbone, large), stages(teacher, large)
    local = stages(method.backbone, torch.cat(views[2:])) if views[2:] else None
    loss: Tensor | float = 0.0
    for place, search in enumerate(method.searches):
        center = method.centers[place].center[0]
        s0, s1 = (head(search, mine[place]) / 0.1).log_softmax(1).chunk(2)
        t0, t1 = ((head(taught[place], theirs[place]) - center) / temperature).softmax(1).detach().chunk(2)
        parts = [(-(t0 * s1).sum(1).mean() - (t1 * s0).sum(1).mean()) / 2]
        if local is not None:
            seen, weighed = theirs[place][:6], []
            for crop in local[place].chunk(len(views) - 2):
                for image in range(6):
                    sought = crop[image].mean((1, 2))
                    cosine = torch.einsum("chw,c->hw", seen[image], sought) / seen[image].norm(dim=0) / sought.norm()
                    weighed.append(cosine * seen[image])
            target = (head(taught[place], torch.stack(weighed)) / temperature).softmax(1).detach()
            parts.append(-(target * (head(search, local[place]) / 0.1).log_softmax(1)).sum(1).mean())
        loss = loss + sum(parts) / len(parts)
    features = torch.cat([grids[1].mean((2, 3)) for grids in (mine, local) if grids is not None])
    rows = (method.projector(features) @ method.projector.weight.T / 0.1).log_softmax(1).chunk(len(views))
    targets = group(theirs[1].mean((2, 3))) @ group.weight.T
    targets = ((targets - method.center.center) / temperature).softmax(1).detach().chunk(2)
    pairs = [(u, v) for u in range(2) for v in range(len(views)) if u != v]
    return loss + sum(-(targets[u] * rows[v]).sum(1).mean() for u, v in pairs) / len(pairs)


@pytest.mark.parametrize("small", [0, 3])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, small: int) -> None:
    method, views = scfs(backend=backend), crops(small)
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_each_stage_has_a_centre_of_large_views_alone() -> None:
    method, views = scfs(), crops(2)
    before = [center.center.clone() for center in method.centers]
    teacher, _, *taught = method.teacher.module
    wanted = [
        0.9 * old[0] + 0.1 * head(search, grid).mean(0)
        for old, search, grid in zip(before, taught, stages(teacher, torch.cat(views[:2])), strict=True)
    ]
    method(views)
    assert all(torch.equal(center.center, old) for center, old in zip(method.centers, before, strict=True))
    method.after_step(4, 10)
    for center, expected in zip(method.centers, wanted, strict=True):
        torch.testing.assert_close(center.center[0], expected)
    fresh = scfs()
    fresh.load_state_dict(method.state_dict())
    assert all(torch.equal(a.center, b.center) for a, b in zip(fresh.centers, method.centers, strict=True))


def test_other_backbones_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^SCFS: backbone is .*; pass a sslkernels.models.ResNet, which has stages"):
        SCFS(nn.Flatten(), feature_dim=64)
    with pytest.raises(ValueError, match=r"^SCFS: stages is 3"):
        SCFS(ResNet(1, (4, 6), (1, 1)), feature_dim=6, stages=3)
