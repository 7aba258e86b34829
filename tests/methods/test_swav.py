# SPDX-License-Identifier: Apache-2.0
"""SwAV against its paper's code in float64, and its prototypes and queues from step to step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslkernels.methods import SwAV
from sslkernels.models import ResNet


def swav(**options: Any) -> SwAV:
    sizes = {"prototypes": 7, "hidden_dim": 8, "projection_dim": 5, "freeze": 0, **options}
    return SwAV(ResNet(1, (6,), (1,)), feature_dim=6, **sizes).double()


def crops(small: int = 2, n: int = 9) -> list[Tensor]:
    return [torch.rand(n, 1, 8, 8, dtype=torch.float64) for _ in range(2)] + [
        torch.rand(n, 1, 6, 6, dtype=torch.float64) for _ in range(small)
    ]


def unit_rows(method: SwAV, views: list[Tensor]) -> list[Tensor]:
    """As in the official code, BatchNorm sees all views of one size in the backbone, and all views in the projector."""
    groups = [torch.cat(views[:2]), torch.cat(views[2:])] if views[2:] else [torch.cat(views)]
    features = [
        part for group, count in zip(groups, (2, len(views) - 2), strict=False)
        for part in method.backbone(group).chunk(count)
    ]  # fmt: skip
    rows = method.projector(torch.cat(features)).chunk(len(views))
    return [row / row.square().sum(1, keepdim=True).sqrt() for row in rows]


def sinkhorn(scores: Tensor) -> Tensor:
    """The paper's listing: scale rows and columns of exp(scores / 0.05) in turn, three times."""
    q = torch.exp(scores / 0.05).T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def formula(method: SwAV, views: list[Tensor], queues: list[Tensor] | None = None) -> Tensor:
    rows, total = unit_rows(method, views), torch.zeros((), dtype=torch.float64)
    for place in (0, 1):
        old = rows[0][:0] if queues is None else queues[place]
        scores = torch.cat([old, rows[place]]) @ method.prototypes.weight.T
        codes = sinkhorn(scores.detach())[len(old) :]
        losses = [
            -(codes * torch.log_softmax(row @ method.prototypes.weight.T / 0.1, 1)).sum(1).mean()
            for other, row in enumerate(rows) if other != place
        ]  # fmt: skip
        total = total + torch.stack(losses).mean() / 2
    return total


@pytest.mark.parametrize("small", [0, 3])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, small: int) -> None:
    method, views = swav(backend=backend), crops(small)
    loss, exact = method(views)["loss"], formula(method, views)
    torch.testing.assert_close(loss, exact)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_queue_counts_when_it_is_full() -> None:
    method, written = swav(queue_size=16, queue_from=1), [[], []]
    for epoch in range(2):
        method.before_epoch(lambda: torch.empty(0), epoch, 2)
        for step in range(3):
            views = crops(0, n=8)
            full = [torch.cat(rows)[-16:] for rows in written] if epoch and step == 2 else None
            rows = unit_rows(method, views)
            torch.testing.assert_close(method(views)["loss"], formula(method, views, full))
            method.eval()(crops(0, n=8))  # the validation loss is computed in between
            method.train()
            for place in (0, 1):
                written[place] += [rows[place].detach()] if epoch else []
            method.after_step(3 * epoch + step, 6)
    again = swav(queue_size=16, queue_from=1)
    again.load_state_dict(method.state_dict())
    views = crops()
    torch.testing.assert_close(again.eval()(views)["loss"], method.eval()(views)["loss"])


def test_prototypes_stay_at_length_1_and_stand_still_at_first() -> None:
    method = swav(freeze=1)
    optimizer = torch.optim.SGD(method.parameters(), 1.0)
    for step in range(2):
        before = method.prototypes.weight.detach().clone()
        optimizer.zero_grad()
        method(crops())["loss"].backward()
        gradient = method.prototypes.weight.grad.clone()
        method.before_step(step, 2)
        optimizer.step()
        method.after_step(step, 2)
        moved = before - step * gradient
        torch.testing.assert_close(method.prototypes.weight.data, moved / moved.square().sum(1, keepdim=True).sqrt())


def test_its_figures_are_those_of_the_first_view_s_codes() -> None:
    method, views = swav().eval(), crops()
    codes = sinkhorn((unit_rows(method, views)[0] @ method.prototypes.weight.T).detach())
    out, mean = method(views), codes.mean(0)
    assert out["largest_probability"].item() == pytest.approx(codes.max(1).values.mean().item(), rel=1e-4)
    assert out["teacher_entropy"].item() == pytest.approx(-(codes * codes.log()).sum(1).mean().item(), rel=1e-4)
    assert out["effective_prototypes"].item() == pytest.approx((-(mean * mean.log()).sum()).exp().item(), rel=1e-4)
