# SPDX-License-Identifier: Apache-2.0
"""MSN against its official code's formulas in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sslkernels.methods import MSN
from sslkernels.models import ResNet, ViT


def msn(**options: Any) -> MSN:
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, any_size=True)
    made = MSN(vit, feature_dim=8, prototypes=7, hidden_dim=8, projection_dim=5, **options).double()
    for parameter in made.teacher.parameters():  # so that the teacher differs from its student
        parameter.data += 0.1 * torch.randn_like(parameter)
    made.prototypes.weight.data *= 1 + torch.rand(7, 1)
    return made


def crops(focal: int = 2, n: int = 9) -> list[Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)] + [
        torch.rand(n, 1, 4, 4, dtype=torch.float64) for _ in range(focal)
    ]


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(1, keepdim=True).sqrt()


def spread(targets: Tensor) -> Tensor:
    """Sinkhorn-Knopp of the official code, on targets."""
    q = targets.T / targets.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def formula(method: MSN, views: list[Tensor], sinkhorn: bool, me_max: float) -> Tensor:
    """Nothing is hidden: which patches are, is drawn."""
    vit, prototypes = method.backbone, unit(method.prototypes.weight)
    focal = vit(torch.cat(views[2:])).chunk(len(views) - 2) if views[2:] else ()
    anchors = unit(method.projector(torch.cat([vit(views[1]), *focal])))
    p = torch.softmax(anchors @ prototypes.T / 0.1, 1)
    t = torch.softmax(unit(method.teacher.module(views[0])) @ prototypes.T / 0.1, 1) ** 4
    t = (t / t.sum(1, keepdim=True)).detach()
    t = spread(t) if sinkhorn else t
    mean = p.mean(0)
    loss = -(t.repeat(len(views) - 1, 1) * p.log()).sum(1).mean()
    return loss + me_max * ((mean * mean.log()).sum() + math.log(7))


@pytest.mark.parametrize(("focal", "sinkhorn", "me_max"), [(0, True, 1.0), (3, False, 0.5), (2, True, 2.0)])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, focal: int, sinkhorn: bool, me_max: float) -> None:
    method = msn(backend=backend, sinkhorn=sinkhorn, me_max=me_max, mask_ratio=0.0)
    views = crops(focal)
    loss, exact = method(views)["loss"], formula(method, views, sinkhorn, me_max)
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_hidden_patches_are_never_read_and_the_teacher_reads_all() -> None:
    method = msn(mask_ratio=0.5).eval()
    views = crops(1)
    views[1].requires_grad_()
    method(views)["loss"].backward()
    read = views[1].grad.unfold(2, 2, 2).unfold(3, 2, 2).abs().sum((1, 4, 5)).flatten(1) > 0
    assert read.sum(1).tolist() == [8] * 9 and len(read.unique(dim=0)) > 1


def test_the_teacher_follows_in_a_line() -> None:
    method = msn(momentum=0.9)
    before, student = (module[1][0].weight.clone() for module in (method.teacher.module, method.online))
    method.after_step(3, 10)
    moved = method.teacher.module[1][0].weight
    torch.testing.assert_close(moved, student + (0.9 + 0.1 * 0.3) * (before - student))


def test_other_backbones_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^MSN: backbone is .*; pass a sslkernels.models.ViT"):
        MSN(ResNet(1, (6,), (1,)), feature_dim=6)
