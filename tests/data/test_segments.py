# SPDX-License-Identifier: Apache-2.0
"""Segments are parts of a sound in their order, each sound's own, long and short ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkernels.data import Segments


def test_segments_are_parts_of_their_sounds_from_every_beginning() -> None:
    sounds = torch.arange(400 * 20.0).view(400, 1, 1, 20).expand(400, 1, 3, 20)
    views = Segments(nn.Identity(), 2, 3, 0.75, 0.3)(sounds)
    assert [tuple(view.shape) for view in views] == [(400, 1, 3, 15)] * 2 + [(400, 1, 3, 6)] * 3
    for view in views:
        begin = view[:, 0, 0, 0] - sounds[:, 0, 0, 0]
        assert sorted(begin.unique().tolist()) == list(range(21 - view.shape[3]))
        expected = (sounds[:, :, :, 0] + begin[:, None, None])[..., None] + torch.arange(view.shape[3])
        assert torch.equal(view, expected)
    assert not torch.equal(views[0], views[1])


def test_a_segment_is_changed_by_the_transform() -> None:
    (view,) = Segments(nn.Threshold(0.5, 0.0), 1, 0, 1.0)(torch.full((2, 1, 3, 4), 0.4))
    assert torch.equal(view, torch.zeros(2, 1, 3, 4))


@pytest.mark.parametrize("wrong", [{"long": 0}, {"short": -1}, {"long_share": 0.0}, {"short_share": 1.5}])
def test_a_wrong_setting_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"^Segments: {next(iter(wrong))} is"):
        Segments(nn.Identity(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^Segments: batch has shape"):
        Segments(nn.Identity())(torch.zeros(3, 2, 4, 5))
