# SPDX-License-Identifier: Apache-2.0
"""Two views are random, differ, and repeat from torch's random state."""

from __future__ import annotations

import pytest
import torch

from sslkernels.data import MultiCrop, TwoViews


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (3, 64)])
def test_views_differ_and_repeat_with_the_random_state(channels, size):
    views = TwoViews(channels, (size, size))
    images = torch.rand(6, channels, size, size)
    before = images.clone()
    state = torch.get_rng_state()
    first, second = views(images)
    torch.set_rng_state(state)
    again = views(images)
    assert first.shape == images.shape and first.dtype == torch.float32
    assert not torch.equal(first, second)
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert torch.equal(images, before)
    assert first.min() >= 0 and first.max() <= 1 + 1e-5


def test_images_of_a_batch_are_augmented_apart():
    views, _ = TwoViews(1, (8, 8))(torch.rand(1, 1, 8, 8).expand(4, -1, -1, -1))
    assert len(views.flatten(1).unique(dim=0)) == 4


def test_digits_are_never_mirrored():
    images = torch.zeros(256, 1, 8, 8)
    images[..., :3] = 1
    first, _ = TwoViews(1, (8, 8))(images)
    left, right = first[..., :4].sum((1, 2, 3)), first[..., 4:].sum((1, 2, 3))
    assert (left >= right).float().mean() > 0.95


def test_photographs_in_grey_are_mirrored_and_lit_and_not_turned_or_erased():
    """Every row of a step along the columns stays one: crops and mirrors keep it, turns and shears would not."""
    images = torch.full((256, 1, 8, 8), 0.2)
    images[..., :3] = 0.6
    first, _ = TwoViews(1, (8, 8), whole=True, writing=False)(images)
    assert (first - first[:, :, :1]).abs().max() < 1e-5
    left, right = first[..., 0].mean((1, 2)), first[..., -1].mean((1, 2))
    assert 0.3 < (left > right + 1e-3).float().mean() < 0.7
    assert first.amin((1, 2, 3)).std() > 0.02  # every crop shows some of the darker part


def test_small_crops_of_photographs_in_grey_are_no_writing_either():
    images = 0.5 + 0.5 * torch.rand(32, 1, 8, 8)
    large, small = MultiCrop(1, (8, 8), 1, 1, (8, 8), writing=False)(images)
    assert large.min() > 0 and small.min() > 0  # writing is shifted, and patches are erased, to 0
