# SPDX-License-Identifier: Apache-2.0
"""CAPI against its official code's formulas in float64, and what it hides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sslkernels.methods import CAPI
from sslkernels.models import ViT
from sslkernels.models.crossing import CrossTransformer


def capi(**options: Any) -> CAPI:
    made = CAPI(ViT((8, 8), 2, width=8, depth=1, heads=2), prototypes=7, predictor_depth=2, **options).double()
    for parameter in made.parameters():  # so that the teacher differs from its student, and biases from 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def spread(scores: Tensor) -> Tensor:
    """Sinkhorn-Knopp of the official code over the images, for scores ``(N, K)`` of one place."""
    m = scores.exp()
    for _ in range(3):
        m = m / m.sum(0, keepdim=True)
        m = m / m.sum(1, keepdim=True)
    return m


def read(block: nn.Module, x: Tensor, others: Tensor) -> Tensor:
    """A block of the predictor by torch's attention."""
    cross = block.attention
    weights = torch.cat([cross.query.weight, cross.pair.weight]), torch.cat([cross.query.bias, cross.pair.bias])
    normed = block.norm0(x).transpose(0, 1)
    found, _ = nn.functional.multi_head_attention_forward(
        normed, others.transpose(0, 1), others.transpose(0, 1), 8, 2, *weights, None, None, False, 0.0,
        cross.out.weight, cross.out.bias,
    )  # fmt: skip
    x = x + found.transpose(0, 1)
    return x + block.mlp(block.norm1(x))


def formula(method: CAPI, images: Tensor, visible: Tensor, asked: Tensor) -> Tensor:
    vit, head = method.backbone, method.prototypes
    seen = vit.encode(vit.embed(images).gather(1, visible[..., None].expand(-1, -1, 8)))
    x = method.mask_token + vit.pos[asked]
    for block in method.predictor.blocks:
        x = read(block, x, seen)
    teacher = unit(method.teacher.module.tokens(images).detach())
    logits = teacher @ method.clusterer.weight.T + method.clusterer.bias
    targets = torch.stack([spread(logits[:, place].detach() / 0.06) for place in range(16)], 1)
    prototypes = head.weight_g * head.weight_v / head.weight_v.norm(dim=1, keepdim=True)
    student = unit(method.predictor.norm(x)) @ prototypes.T
    wanted = torch.stack([target[places] for target, places in zip(targets, asked, strict=True)])
    return sum(-(p * torch.log_softmax(s / 0.12, 2)).sum(2).mean() for p, s in ((wanted, student), (targets, logits)))


@pytest.mark.parametrize("predicted", [0.05, 1.0])
def test_loss_and_gradients_are_those_of_the_paper(backend: str, predicted: float) -> None:
    method, images = capi(backend=backend, predicted=predicted), torch.rand(9, 1, 8, 8, dtype=torch.float64)
    torch.manual_seed(3)
    loss = method([images])["loss"]
    torch.manual_seed(3)
    exact = formula(method, images, *method.hide(9, images.device))
    torch.testing.assert_close(loss, exact)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("sides", "ratio"), [((8, 8), 0.65), ((2, 32), 0.65), ((32, 4), 0.3), ((6, 6), 0.12)])
def test_a_block_stays_visible_wherever_it_begins(sides: tuple[int, int], ratio: float) -> None:
    method = CAPI(ViT(sides, 2, width=8, depth=1, heads=2), prototypes=3, predictor_depth=1, mask_ratio=ratio)
    rows, columns = method.backbone.grid
    for _ in range(10):
        visible, asked = method.hide(20, torch.device("cpu"))
        assert visible.shape == (20, rows * columns - int(rows * columns * ratio)) and asked.shape[1] >= 1
        for kept, hidden in zip(visible.tolist(), asked.tolist(), strict=True):
            assert len(set(kept)) == len(kept) and not set(kept) & set(hidden)
            # Rolled back to its first patch, the block is what a rectangle has first.
            top, left = divmod(kept[0], columns)
            cells = [((place // columns - top) % rows, (place % columns - left) % columns) for place in kept]
            width = max(column for _, column in cells) + 1
            assert cells == [divmod(nth, width) for nth in range(len(cells))]
    assert len(method.hide(2000, torch.device("cpu"))[0][:, 0].unique()) == rows * columns


def test_pixels_of_hidden_patches_are_read_by_the_teacher_alone() -> None:
    method, images = capi(), torch.rand(9, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    method([images])["loss"].backward()
    read = images.grad.unfold(2, 2, 2).unfold(3, 2, 2).abs().sum((1, 4, 5)).flatten(1) > 0
    assert read.sum(1).tolist() == [6] * 9 and len(read.unique(dim=0)) > 1


def test_queries_do_not_read_each_other() -> None:
    predictor = CrossTransformer(8, depth=2, heads=2)
    x, others = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    torch.testing.assert_close(predictor(x, others)[:, 2:3], predictor(x[:, 2:3], others))


def test_the_teacher_follows_in_half_a_cosine() -> None:
    method = capi(momentum=0.9)
    before, student = (vit.patch.weight.clone() for vit in (method.teacher.module, method.backbone))
    method.after_step(5, 10)
    torch.testing.assert_close(method.teacher.module.patch.weight, student + 0.95 * (before - student))


def test_a_mask_ratio_that_hides_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^CAPI: mask_ratio is 0\.01 and an image has 16 patches; pass one"):
        capi(mask_ratio=0.01)
