# SPDX-License-Identifier: Apache-2.0
"""The ViT's class token, registers, mask token and positions of crops, against torch written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sslkernels.methods import MAE
from sslkernels.models import ViT, sincos_positions

SMALL = {"width": 8, "depth": 1, "heads": 2}


def test_tokens_stand_in_their_order_and_the_class_token_gives_the_features() -> None:
    vit, images = ViT((8, 4), 2, 3, **SMALL, class_token=True, registers=2), torch.rand(5, 3, 8, 4)
    pixels = F.unfold(images, 2, stride=2).transpose(1, 2)
    patches = F.linear(2 * pixels - 1, vit.patch.weight, vit.patch.bias) + sincos_positions(4, 2, 8)
    expected = vit.encode(torch.cat([vit.prefix.expand(5, 3, 8), patches], 1))
    torch.testing.assert_close(vit.tokens(images), expected)
    torch.testing.assert_close(vit(images), expected[:, 0])
    some = torch.tensor([[3, 0, 5]]).expand(5, 3)
    expected = vit.encode(torch.cat([vit.prefix.expand(5, 3, 8), patches[:, [3, 0, 5]]], 1))
    torch.testing.assert_close(vit.tokens(images, some), expected)
    torch.testing.assert_close(vit(images, some), expected[:, 0])
    vit.class_token, vit.prefix = False, torch.nn.Parameter(vit.prefix[1:].detach())
    torch.testing.assert_close(vit(images), vit.tokens(images)[:, 2:].mean(1))


def test_hidden_patches_are_the_mask_token_at_their_position() -> None:
    vit, images = ViT((4, 4), 2, **SMALL, mask_token=True), torch.rand(2, 1, 4, 4)
    torch.nn.init.normal_(vit.mask_token)
    hidden = torch.tensor([[True, False, False, True], [False, False, True, False]])
    x = vit.embed(images)
    x[0, 0], x[0, 3], x[1, 2] = (vit.mask_token + vit.pos[place] for place in (0, 3, 2))
    torch.testing.assert_close(vit.tokens(images, hidden=hidden), vit.encode(x))
    for wrong in (hidden.int(), hidden[:1], hidden[:, :3]):
        with pytest.raises(ValueError, match=r"^ViT: hidden is .*; pass bool of shape \(2, 4\), one for each patch\.$"):
            vit.tokens(images, hidden=wrong)
    with pytest.raises(ValueError, match="^ViT: hidden came with index"):
        vit.tokens(images, torch.zeros(2, 1, dtype=torch.int64), hidden=hidden)
    with pytest.raises(ValueError, match="^ViT: hidden came and there is no mask token"):
        ViT((4, 4), 2, **SMALL).tokens(images, hidden=hidden)


def test_positions_of_a_crop_are_where_interpolation_would_read_them() -> None:
    """Over a fine grid interpolation of the sines errs little; the formula does not err."""
    vit = ViT((64, 64), 2, width=8, depth=1, heads=2, any_size=True)
    grid = vit.pos.T.view(1, 8, 32, 32)
    crop = torch.rand(1, 1, 48, 24)
    at = F.interpolate(grid, (24, 12), mode="bicubic").flatten(2)[0].T
    found = vit._positions(crop)
    inner = torch.zeros(24, 12, dtype=torch.bool)
    inner[2:-2, 2:-2] = True  # bicubic interpolation repeats what lies at the border
    torch.testing.assert_close(found[inner.flatten()], at[inner.flatten()], atol=0.06, rtol=0)
    assert vit._positions(torch.rand(1, 1, 64, 64)) is vit.pos
    assert vit(crop).shape == (1, 8)
    for shape in ((1, 1, 47, 24), (1, 3, 48, 24)):
        with pytest.raises(ValueError, match=r"it was made for \(N, 1, H, W\), with sides that 2 divides\.$"):
            vit(torch.rand(shape))


def test_a_masked_method_refuses_tokens_that_it_would_not_train() -> None:
    with pytest.raises(ValueError, match="^MAE: backbone has a class token or registers"):
        MAE(ViT((8, 8), 2, **SMALL, class_token=True))
