# SPDX-License-Identifier: Apache-2.0
"""I-JEPA against its paper, in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.functional import block_masks
from sslkernels.methods import IJEPA, Method
from sslkernels.models import ViT


def small() -> IJEPA:
    method = IJEPA(ViT((8, 8), 2, 1, width=16, depth=2, heads=2), predictor_width=8, momentum=0.9)
    for parameter in method.teacher.parameters():  # so that the teacher differs from its student
        parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def official_loss(method: IJEPA, images: Tensor, context: Tensor, targets: list[Tensor]) -> Tensor:
    """Follow train.py and vision_transformer.py of the official code on the method's weights, a target at a time."""
    patches = images.reshape(-1, 1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(len(images), 16, 4)
    pixels = 2 * patches - 1
    student, teacher = method.backbone, method.teacher.module
    h = teacher.encode(teacher.patch(pixels) + teacher.pos)
    h = F.layer_norm(h, h.shape[-1:])
    z = student.encode(rows(student.patch(pixels) + student.pos, context))
    pos = method.pos.expand(len(images), -1, -1)
    z = method.predictor_embed(z) + rows(pos, context)
    losses = []
    for target in targets:
        tokens = torch.cat([z, method.mask_token + rows(pos, target)], 1)
        pred = method.predictor_out(method.predictor(tokens)[:, context.shape[1] :])
        losses.append(F.smooth_l1_loss(pred, rows(h, target).detach()))
    return torch.stack(losses).mean()


def test_loss_and_gradients_are_those_of_the_official_code(seed):
    method = small().double()
    images = torch.rand(5, 1, 8, 8).double()
    torch.manual_seed(seed)
    loss = method([images])["loss"]
    torch.manual_seed(seed)
    (context,), targets = block_masks(5, 4, 4, min_keep=method.min_keep)
    exact = official_loss(method, images, context, targets)
    torch.testing.assert_close(loss, exact, atol=1e-6, rtol=1e-6)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_gradient_reaches_all_but_the_teacher():
    method = small()
    method([torch.rand(4, 1, 8, 8)])["loss"].backward()
    for name, parameter in method.named_parameters():
        if name.startswith("teacher."):
            assert parameter.grad is None and not parameter.requires_grad, name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name


def test_the_teacher_follows_with_a_momentum_that_rises_to_one():
    method = small()
    method.backbone.register_buffer("seen", torch.tensor(1.0))
    method.teacher.module.register_buffer("seen", torch.tensor(0.0))
    for step, momentum in ((0, 0.9), (5, 0.95), (10, 1.0)):
        before = [parameter.clone() for parameter in method.teacher.parameters()]
        method.after_step(step, 10)
        for old, new, student in zip(before, method.teacher.parameters(), method.backbone.parameters(), strict=True):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * student)
    assert method.teacher.module.seen == 1


def test_embeddings_are_those_of_the_loss_and_the_seed_decides(seed):
    method = small()
    images = torch.rand(4, 1, 8, 8)
    out = method([images])
    torch.testing.assert_close(method.loss(*out["embeddings"]), out["loss"])
    losses = []
    for number in (seed, seed, seed + 1):
        torch.manual_seed(number)
        losses.append(float(method([images])["loss"]))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("image", "kept"), [((8, 8), 4), ((2, 2), 1), ((32, 32), 10)])
def test_small_grids_keep_a_quarter_at_least(image, kept):
    method = IJEPA(ViT(image, 2, width=16, depth=1))
    assert method.min_keep == kept
    assert method([torch.rand(2, 1, *image)])["loss"].isfinite()


def test_anything_but_one_view_is_refused():
    assert issubclass(IJEPA, Method)
    with pytest.raises(ValueError, match="IJEPA: 2 views came; pass one view"):
        small()([torch.rand(2, 1, 8, 8)] * 2)
