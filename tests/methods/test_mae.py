# SPDX-License-Identifier: Apache-2.0
"""MAE against its paper, in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sslkernels.functional import random_masking
from sslkernels.methods import MAE, Method
from sslkernels.models import ViT


def small(**options) -> MAE:
    return MAE(ViT((8, 8), 2, 1, width=16, depth=2, heads=2), decoder_width=8, **options)


def official_loss(method: MAE, images: Tensor, ids_keep: Tensor, ids_restore: Tensor, mask: Tensor) -> Tensor:
    """Follow models_mae.py of the official code, without its class token, on the method's weights."""
    vit = method.backbone
    patches = images.reshape(-1, 1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(len(images), 16, 4)
    x = (2 * patches - 1) @ vit.patch.weight.T + vit.patch.bias + vit.pos
    x = vit.encode(x.gather(1, ids_keep[..., None].expand(-1, -1, 16)))
    x = x @ method.decoder_embed.weight.T + method.decoder_embed.bias
    x = torch.cat([x, method.mask_token.expand(len(x), 16 - x.shape[1], -1)], 1)
    x = x.gather(1, ids_restore[..., None].expand(-1, -1, 8))
    pred = method.painter(method.decoder(x + method.pos))
    target = patches
    if method.normalize_target:
        target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6) ** 0.5
    return ((pred - target).square().mean(-1) * mask).sum() / mask.sum()


@pytest.mark.parametrize("normalize_target", [True, False])
def test_loss_and_gradients_are_those_of_the_official_code(seed, normalize_target):
    method = small(normalize_target=normalize_target).double()
    images = torch.rand(5, 1, 8, 8).double()
    torch.manual_seed(seed)
    loss = method([images])["loss"]
    torch.manual_seed(seed)
    exact = official_loss(method, images, *random_masking(5, 16, 0.75))
    torch.testing.assert_close(loss, exact, atol=1e-6, rtol=1e-6)
    weights = list(method.parameters())
    for found, expected in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(exact, weights), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_hidden_pixels_do_not_reach_the_prediction(seed):
    method = small()
    images = torch.rand(3, 1, 8, 8)
    visible, _ = method.reconstruct(images, torch.Generator().manual_seed(seed))
    pred, mask = method.paint(images, torch.Generator().manual_seed(seed))
    other, _ = method.paint(images.where(visible, torch.nan), torch.Generator().manual_seed(seed))
    assert torch.equal(pred, other) and mask.sum() == 3 * 12
    assert visible.dtype == torch.bool and visible.sum() == 3 * 4 * 4


def test_reconstructions_keep_what_was_visible(seed):
    images = torch.rand(3, 1, 8, 8)
    visible, painted = small().reconstruct(images)
    assert torch.equal(painted[visible], images[visible])
    assert not torch.isclose(painted[~visible], images[~visible]).all()


def test_every_parameter_receives_a_gradient():
    method = small()
    method([torch.rand(4, 1, 8, 8)])["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_embeddings_are_those_of_the_loss_and_the_seed_decides(seed):
    method = small()
    images = torch.rand(4, 1, 8, 8)
    out = method([images])
    torch.testing.assert_close(method.loss(*out["embeddings"]), out["loss"])
    losses = []
    for number in (seed, seed, seed + 1):
        torch.manual_seed(number)
        losses.append(method([images])["loss"].item())
    assert losses[0] == losses[1] != losses[2]


def test_anything_but_one_view_is_refused():
    assert issubclass(MAE, Method)
    with pytest.raises(ValueError, match="MAE: 2 views came; pass one view"):
        small()([torch.rand(2, 1, 8, 8)] * 2)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99])
def test_a_ratio_that_hides_all_or_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match=f"MAE: mask_ratio is {ratio} and an image has 16 patches"):
        small(mask_ratio=ratio)


@pytest.mark.parametrize("patch_size", [1, 8])
def test_patches_that_cannot_be_learned_from_are_refused(patch_size):
    """A patch of one number has no variance to normalise by, and a single patch has no others to be painted from."""
    with pytest.raises(ValueError, match=f"MAE: patches of patch_size {patch_size}"):
        MAE(ViT((8, 8), patch_size, 1, width=16, depth=1, heads=2))
