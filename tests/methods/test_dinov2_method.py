# SPDX-License-Identifier: Apache-2.0
"""What DINOv2 adds to iBOT's loss, and the earlier teacher of DINOv3."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sslkernels.methods import DINOv2
from sslkernels.methods.ibot import IBOT
from sslkernels.models import ViT


def dinov2(**options: Any) -> DINOv2:
    vit = ViT((8, 8), 2, width=8, depth=1, heads=2, class_token=True, registers=1, mask_token=True, any_size=True)
    made = DINOv2(vit, feature_dim=8, prototypes=7, hidden_dim=8, projection_dim=5, **options).double()
    for parameter in made.parameters():  # so that all three networks differ
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def crops(n: int = 5) -> list[Tensor]:
    sizes = (8, 8, 4)
    return [torch.rand(n, 1, size, size, dtype=torch.float64) for size in sizes]


def spread(rows: Tensor) -> Tensor:
    """KoLeo of one view, row by row."""
    unit = rows / rows.norm(dim=1, keepdim=True)
    apart = torch.stack([
        torch.stack([(one - other + 1e-8).norm() for place, other in enumerate(unit) if place != own]).min()
        for own, one in enumerate(unit)
    ])  # fmt: skip
    return -(apart + 1e-8).log().mean()


def unlike(x: Tensor, y: Tensor) -> Tensor:
    """The mean of the squared differences of similarities, image by image and pair by pair."""
    x, y = (each / each.norm(dim=2, keepdim=True) for each in (x, y))
    return torch.stack(
        [(one @ one.T - other @ other.T).square().mean() for one, other in zip(x, y, strict=True)]
    ).mean()


@pytest.mark.parametrize("gram", [0.0, 2.0])
def test_loss_and_gradients_have_what_is_added(backend: str, gram: float) -> None:
    method, views = dinov2(backend=backend, koleo=0.3, gram=gram, gram_from=0.0), crops()
    if gram:
        method.after_step(0, 10)
        for parameter in method.earlier.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    drawn = method.hide(10, torch.device("cpu"))
    method.hide = lambda *_: drawn  # type: ignore[method-assign]
    out, vit, large = method(views), method.backbone, torch.cat(views[:2])
    tokens = vit.tokens(large, hidden=drawn[0])
    exact = IBOT.compared(method, *out["embeddings"][3:])[0] + 0.3 * sum(spread(view) for view in tokens[:, 0].chunk(2))
    if gram:
        exact = exact + gram * unlike(tokens[:, 2:], method.earlier.module.tokens(large)[:, 2:].detach())
    torch.testing.assert_close(out["loss"], exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(
        torch.autograd.grad(out["loss"], weights, retain_graph=True), torch.autograd.grad(exact, weights), strict=True
    ):
        torch.testing.assert_close(found, expected)
    assert (
        all(weight.grad is None for weight in method.earlier.parameters()) if gram else not hasattr(method, "earlier")
    )


def test_the_earlier_teacher_stands_still_between_its_steps_and_is_saved() -> None:
    method, kept = dinov2(gram=1.0, gram_from=0.4, gram_every=3, momentum=0.5), []
    for step in range(10):
        for parameter in method.backbone.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        method(crops())
        method.after_step(step, 10)
        teacher, earlier = method.teacher.module[0], method.earlier.module
        same = [torch.equal(*pair) for pair in zip(teacher.parameters(), earlier.parameters(), strict=True)]
        kept.append(all(same))
        assert bool(len(method(crops())["embeddings"][2])) == (step >= 3)
    assert kept == [step in (3, 6, 9) for step in range(10)]
    again = dinov2(gram=1.0, gram_from=0.4, gram_every=3)
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    views, drawn = crops(), method.hide(10, torch.device("cpu"))
    again.hide = method.hide = lambda *_: drawn  # type: ignore[method-assign]
    assert torch.equal(again(views)["loss"], method(views)["loss"])
    again.after_step(10, 20)  # one step after the last copy
    assert not all(
        torch.equal(*pair)
        for pair in zip(again.teacher.module[0].parameters(), again.earlier.module.parameters(), strict=True)
    )


def test_without_a_known_end_it_never_begins_but_at_once() -> None:
    for begin, begun in ((0.4, False), (0.0, True)):
        method = dinov2(gram=1.0, gram_from=begin)
        method.after_step(0, math.inf)
        assert bool(method.earlier.updates) == begun
