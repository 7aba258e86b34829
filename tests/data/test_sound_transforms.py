# SPDX-License-Identifier: Apache-2.0
"""Random transforms of log-mel spectrograms give what their formulas say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from sslkernels.data import AudioViews, LogMixupExp, Noise, Pitch, RandomResizeCrop, Speed, Views

QUARTERS = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)


def sounds(count: int, mels: int = 6, frames: int = 9) -> torch.Tensor:
    return torch.randn(count, 1, mels, frames, dtype=torch.float64)


def read(row: np.ndarray, places: np.ndarray, quietest: float) -> np.ndarray:
    """Read a row at any places by another way: numpy's interpolation between it and one quiet value on either side."""
    return np.interp(places, np.arange(-1, len(row) + 1), [quietest, *row, quietest])


def assert_evenly_spread(drawn: torch.Tensor, low: float, high: float) -> None:
    shares = (drawn.double() - low) / (high - low)
    assert shares.min() > -1e-6 and shares.max() < 1 + 1e-6
    torch.testing.assert_close(shares.quantile(QUARTERS), QUARTERS, atol=0.04, rtol=0)


# The memory


def test_powers_are_mixed_with_an_evenly_drawn_share():
    mixup = LogMixupExp(0.4, memory=1)
    past, now = sounds(1), sounds(1).expand(4000, 1, 6, 9)
    mixup(past)
    gained = mixup(now).exp() - now.exp()
    share = gained / (past.exp() - now.exp())
    torch.testing.assert_close(share, share[:, :, :1, :1].expand_as(share))
    assert_evenly_spread(share[:, 0, 0, 0], 0, 0.4)


def test_the_memory_holds_the_latest_sounds_as_they_came():
    mixup, came = LogMixupExp(memory=7), []
    for count in (3, 2, 5, 9, 1):
        batch = sounds(count)
        before = batch.clone()
        found = mixup(batch)
        assert torch.equal(batch, before) and torch.equal(found, batch) == (not came)
        came += list(batch)
        kept = {tuple(each.flatten().tolist()) for each in came[-7:]}
        held = {tuple(each.flatten().tolist()) for each in mixup.sounds[: min(len(came), 7)]}
        assert held == kept and int(mixup.seen) == len(came)


def test_every_sound_of_the_memory_is_drawn_and_no_empty_place():
    mixup = LogMixupExp(1.0, memory=50)
    past = torch.tensor([1.0, 2.0, 4.0]).log().view(3, 1, 1, 1)
    mixup(past)
    found = mixup(torch.full((3000, 1, 1, 1), -30.0)).exp().flatten()  # about the share times 1, 2 or 4
    assert 3.9 < found.max() <= 4 and found.mean() == pytest.approx(0.5 * 7 / 3, abs=0.05)


def test_the_second_view_of_the_first_batch_is_mixed_with_that_batch():
    batch = sounds(5)
    first, second = Views(LogMixupExp())(batch)
    assert torch.equal(first, batch) and not torch.equal(second, batch)


def test_a_saved_memory_continues_as_if_nothing_had_happened():
    mixup = LogMixupExp(memory=5)
    empty = LogMixupExp(memory=5)
    empty.load_state_dict(mixup.state_dict())
    assert empty.sounds is None and int(empty.seen) == 0
    for count in (3, 4):
        mixup(sounds(count))
    other = LogMixupExp(memory=5)
    other(sounds(2, mels=3))
    saved = copy.deepcopy(mixup.state_dict())
    assert set(saved) == {"sounds", "seen"}
    batches, state = (sounds(4), sounds(3)), torch.get_rng_state()
    expected = [mixup(batch) for batch in batches]
    for again in (LogMixupExp(memory=5), other):
        again.load_state_dict(saved)
        torch.set_rng_state(state)
        assert all(torch.equal(again(batch), view) for batch, view in zip(batches, expected, strict=True))


def test_sounds_of_another_shape_are_refused():
    mixup = LogMixupExp()
    mixup(sounds(2))
    with pytest.raises(ValueError, match=r"batch has shape \(2, 1, 6, 8\) and the memory \(2048, 1, 6, 9\)"):
        mixup(sounds(2, frames=8))
    for transform in (AudioViews(1).draw, LogMixupExp(), RandomResizeCrop(), Noise(), Speed(), Pitch()):
        with pytest.raises(ValueError, match="sounds have one channel"):
            transform(torch.rand(2, 2, 6, 9))


# Crops


def test_the_whole_virtual_area_is_the_sound_amid_silence():
    batch = sounds(3, mels=4, frames=11)
    found = RandomResizeCrop((1.5, 1.5))(batch)
    places = np.linspace(-0.25 * 10, 1.25 * 10, 11)
    for before, after in zip(batch[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        expected = np.stack([read(row, places, before.min()) for row in before])
        np.testing.assert_allclose(after, expected, atol=1e-12)


def test_sizes_and_places_of_crops_are_spread_evenly():
    """On a plane that rises along both axes, a view's slopes tell the crop's sizes and its corner the place."""
    mels, frames = torch.meshgrid(torch.linspace(0, 1, 5), torch.linspace(0, 1, 6), indexing="ij")
    for plane, step in ((mels, (1, 0)), (frames, (0, 1))):
        found = RandomResizeCrop((0.5, 1.0), area=1.0)(plane.double().expand(4000, 1, 5, 6))[:, 0]
        first, last = found[:, 0, 0], found[:, -1 if step[0] else 0, -1 if step[1] else 0]
        size = last - first
        assert_evenly_spread(size, 0.5, 1.0)
        smaller = size < 0.95
        assert_evenly_spread(first[smaller] / (1 - size[smaller]), 0, 1)
        slopes = found.diff(dim=1 if step[0] else 2)
        torch.testing.assert_close(slopes, slopes[:, :1, :1].expand_as(slopes))


def test_crops_beyond_the_bands_are_the_whole_height_and_places_reach_over_the_ends():
    mels, frames = torch.meshgrid(torch.arange(8.0), torch.arange(33.0), indexing="ij")
    found = RandomResizeCrop((1.2, 1.2))(mels.expand(2000, 1, 8, 33))[:, 0]
    inside = found[:, :, 16]
    torch.testing.assert_close(inside, torch.arange(8.0).expand_as(inside))
    # In time, 1.2 of 1.5 begins up to a quarter before the sound.
    rising = RandomResizeCrop((1.2, 1.2))((1 + frames).expand(2000, 1, 8, 33))[:, 0, 4]
    starts = rising[:, 16] - 1 - 0.6 * 32  # the middle of a view lies 0.6 behind its beginning
    assert_evenly_spread(starts / 32, -0.25, 0.05)


# Noise, speed and pitch


def test_noise_is_white_and_as_loud_as_asked():
    batch = 2 * sounds(2, mels=200, frames=300)
    for decibels in (-3.0, 10.0):
        added = Noise((decibels, decibels))(batch).exp() - batch.exp()
        for sound, noise in zip(batch.exp(), added, strict=True):
            level = sound.mean() * 10 ** (-decibels / 10)
            torch.testing.assert_close(noise.mean() / level, torch.ones_like(level), atol=0.02, rtol=0)
            # Exponential numbers: half are below log 2 of the mean, and 1 - 1/e below the mean.
            assert abs(float((noise < level * np.log(2)).double().mean()) - 0.5) < 0.01
            assert abs(float((noise < level).double().mean()) - (1 - np.exp(-1))) < 0.01
            assert (
                abs(float(torch.corrcoef(torch.stack([noise[0, 1:].flatten(), noise[0, :-1].flatten()]))[0, 1])) < 0.02
            )


def test_ratios_are_drawn_evenly_in_decibels():
    batch = sounds(1, 40, 40).expand(2000, 1, 40, 40)
    added = Noise((5.0, 25.0))(batch).exp() - batch.exp()
    assert_evenly_spread(-10 * (added.mean((1, 2, 3)) / batch.exp().mean((1, 2, 3))).log10(), 5 - 0.5, 25 + 0.5)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25, 3.0])
@pytest.mark.parametrize("frames", [1, 8, 9])
def test_sounds_run_at_the_speed_that_was_asked_for_about_their_middle(factor, frames):
    batch = sounds(3, frames=frames)
    found = Speed((factor, factor))(batch)
    middle = (frames - 1) / 2
    places = middle + factor * (np.arange(frames) - middle)
    for before, after in zip(batch[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(after, [read(row, places, before.min()) for row in before], atol=1e-9)


def test_slower_is_as_likely_as_faster():
    rising = torch.arange(21.0, dtype=torch.float64).expand(4000, 1, 3, 21)
    found = Speed((0.5, 2.0))(rising)[:, 0, 0]
    assert_evenly_spread((found[:, 11] - found[:, 10]).log2(), -1, 1)


def test_bands_move_together_and_evenly():
    batch = sounds(1, mels=9, frames=4).expand(3000, 1, 9, 4).clone()
    batch[:, :, :, 3] = torch.arange(9.0)  # tells the shift where it comes from inside
    found = Pitch(3.0)(batch)
    shifts = 4 - found[:, 0, 4, 3]
    assert_evenly_spread(shifts, -3, 3)
    for before, after, shift in zip(batch[:50, 0].numpy(), found[:50, 0].numpy(), shifts[:50].numpy(), strict=True):
        expected = [read(column, np.arange(9) - shift, before.min()) for column in before.T]
        np.testing.assert_allclose(after.T, expected, atol=1e-9)
    assert torch.equal(Pitch(0.0)(batch), batch)
