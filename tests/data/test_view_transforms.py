# SPDX-License-Identifier: Apache-2.0
"""Random transforms give what their formulas say, repeat from the random state, and treat each sample apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from sslkernels.data import (
    BatchStyle,
    FourierStyle,
    ImageViews,
    Jitter,
    LogMixupExp,
    LowVariancePerturb,
    MultiCrop,
    Noise,
    Permuted,
    Pitch,
    RandomizedQuantization,
    RandomResizeCrop,
    Reversed,
    Scaled,
    Speed,
    Views,
    Warped,
)

SERIES, SOUNDS, IMAGES, TABLE = (5, 3, 17), (5, 1, 7, 11), (5, 3, 9, 6), (5, 13)
KINDS = [
    (Jitter(), SERIES),
    (Scaled(), SERIES),
    (Permuted(), SERIES),
    (Reversed(), SERIES),
    (Warped(), SERIES),
    (LogMixupExp(), SOUNDS),
    (RandomResizeCrop(), SOUNDS),
    (Noise(), SOUNDS),
    (Speed(), SOUNDS),
    (Pitch(), SOUNDS),
    (FourierStyle(), IMAGES),
    (FourierStyle(band=0.5), IMAGES),
    (LowVariancePerturb(torch.rand(40, *IMAGES[1:])), IMAGES),
    (RandomizedQuantization(), IMAGES),
    (RandomizedQuantization(3), SERIES),
    (RandomizedQuantization(), TABLE),
]
kinds = pytest.mark.parametrize(("transform", "shape"), KINDS, ids=[f"{type(t).__name__}-{len(s)}" for t, s in KINDS])


def primed(transform: nn.Module, batch: torch.Tensor) -> nn.Module:
    """The same transform, which remembers nothing but ``batch``."""
    if isinstance(transform, LogMixupExp):
        transform = LogMixupExp()
        transform(batch)
    return transform


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_views_keep_the_form_and_repeat_from_the_random_state(transform, shape, dtype):
    batch = torch.rand(shape, dtype=dtype)
    before = batch.clone()
    transform.to(dtype)
    transform, state = primed(transform, batch), torch.get_rng_state()
    first = transform(batch)
    assert first.shape == batch.shape and first.dtype == dtype and first.isfinite().all()
    assert torch.equal(batch, before) and not torch.equal(first, batch)
    transform = primed(transform, batch)
    torch.set_rng_state(state)
    assert torch.equal(transform(batch), first)
    if not isinstance(transform, LogMixupExp):
        assert not torch.equal(transform(batch), first)


@kinds
def test_one_sample_and_many_equal_ones_are_treated_apart(transform, shape):
    transform.float()
    assert transform(torch.rand(1, *shape[1:])).shape == (1, *shape[1:])
    assert transform(torch.rand(0, *shape[1:])).shape == (0, *shape[1:])
    if isinstance(transform, (LogMixupExp, FourierStyle)):
        return  # a mixture of equal samples is the sample
    found = transform(torch.rand(1, *shape[1:]).expand(12, *shape[1:]))
    least = {Reversed: 2, Permuted: 6}.get(type(transform), 11)  # there are 2 and 23 changes
    assert len(found.flatten(1).unique(dim=0)) >= least


@kinds
def test_a_sample_depends_on_its_own_numbers_alone(transform, shape):
    transform.float()
    batch = torch.rand(shape)
    other = batch.clone()
    other[3] = torch.rand(shape[1:])
    transform, state = primed(transform, batch), torch.get_rng_state()
    first = transform(batch)
    transform = primed(transform, batch)
    torch.set_rng_state(state)
    changed = (transform(other) != first).flatten(1).any(1)
    if isinstance(transform, FourierStyle):
        assert changed[3] and changed.sum() < 5  # and those to whom it lends its style
    else:
        assert changed.tolist() == [row == 3 for row in range(5)]


@kinds
def test_what_is_no_batch_is_refused_in_a_sentence(transform, shape):
    for wrong, error in (
        ([1.0], TypeError),
        (torch.zeros(shape, dtype=torch.int64), TypeError),
        (torch.rand(4), ValueError),
    ):
        with pytest.raises(error, match=f"^{type(transform).__name__}: (batch|images) "):
            transform(wrong)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: RandomizedQuantization(0), "regions"),
        (lambda: FourierStyle(2.0), "strength"),
        (lambda: FourierStyle(band=0.6), "band"),
        (lambda: BatchStyle((0.1, 1.1)), "areas"),
        (lambda: LogMixupExp(ratio=1.5), "ratio"),
        (lambda: LogMixupExp(memory=0), "memory"),
        (lambda: RandomResizeCrop((1.5, 0.6)), "scale"),
        (lambda: RandomResizeCrop(area=0.5), "area"),
        (lambda: Noise((3.0, 1.0)), "ratio"),
        (lambda: Speed((0.0, 1.0)), "factors"),
        (lambda: Pitch(-1.0), "bands"),
        (lambda: Jitter(-1.0), "deviation"),
        (lambda: Scaled(-1.0), "deviation"),
        (lambda: Permuted(1), "segments"),
        (lambda: Permuted(p=2.0), "p"),
        (lambda: Warped(knots=1), "knots"),
        (lambda: MultiCrop(2, (8, 8)), "channels"),
        (lambda: MultiCrop(1, (8, 8), large=0), "large"),
        (lambda: MultiCrop(1, (8, 8), small_scale=(0.1, 1.1)), "small_scale"),
        (lambda: LowVariancePerturb(torch.rand(1, 1, 4, 4)), "images"),
        (lambda: LowVariancePerturb(torch.rand(4, 1, 4, 4), share=1.1), "share"),
    ],
)
def test_arguments_are_checked(make, name):
    with pytest.raises(ValueError, match=rf"^\w+: {name} "):
        make()


def test_transforms_compose_and_become_views():
    views = Views(nn.Sequential(Warped(), Scaled(), Jitter()), 3)
    first, second, third = views(torch.randn(4, 2, 30))
    assert first.shape == (4, 2, 30) and not torch.equal(first, second) and not torch.equal(second, third)


# Any modality


@pytest.mark.parametrize("shape", [IMAGES, SERIES, SOUNDS, TABLE])
@pytest.mark.parametrize("regions", [1, 2, 8])
def test_a_bin_becomes_one_value_inside_it(shape, regions):
    batch = torch.randn(shape)
    found = RandomizedQuantization(regions)(batch)
    channels, values = (
        each.reshape(-1, each[0].numel() if len(shape) == 2 else each[0, 0].numel()) for each in (batch, found)
    )
    for before, after in zip(channels.numpy(), values.numpy(), strict=True):
        order = np.argsort(before)
        before, after = before[order], after[order]
        assert (np.diff(after) >= 0).all() and len(set(after)) <= regions
        # Neighbouring bins share an edge, which lies between their numbers and between their values.
        parts = [list(group) for _, group in itertools.groupby(zip(before, after, strict=True), lambda pair: pair[1])]
        for left, right in itertools.pairwise(parts):
            low, high = max(left[-1][0], left[-1][1]), min(right[0][0], right[0][1])
            assert low <= high
        assert before[0] <= after[0] and after[-1] <= before[-1]


def test_edges_and_values_are_spread_evenly():
    ramp = torch.linspace(0, 1, 1001).expand(4000, 1, -1)
    found = RandomizedQuantization(2)(ramp)
    jumps = (found.diff(dim=2).argmax(2) + 0.5) / 1000  # where the edge is
    lower, upper = found[:, :, 0] / jumps, (found[:, :, -1] - jumps) / (1 - jumps)
    for each in (jumps, lower, upper):
        quantiles = torch.quantile(
            each[jumps.sub(0.5).abs() < 0.45] if each is not jumps else each, torch.tensor([0.25, 0.5, 0.75])
        )
        torch.testing.assert_close(quantiles, torch.tensor([0.25, 0.5, 0.75]), atol=0.03, rtol=0)


def test_a_channel_without_range_stays():
    batch = torch.full((2, 3, 5), 0.7)
    assert torch.equal(RandomizedQuantization()(batch), batch)


# Images


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (1, 7)])
@pytest.mark.parametrize("band", [0.0, 0.2, 0.5])
def test_amplitudes_are_mixed_and_phases_kept(size, band):
    first, second = np.random.default_rng(0).uniform(0.45, 0.55, (2, 3, *size))
    images = torch.tensor(np.stack([first, second]))
    found = FourierStyle(1.0, band)(images).numpy()
    f, g = np.fft.fft2(first), np.fft.fft2(second)
    low = np.maximum(*np.meshgrid(*(abs(np.fft.fftfreq(side)) for side in size), indexing="ij")) <= band
    # The share is unknown; a mean tells it, since the amplitude of frequency 0 is the sum.
    share = (found[0].mean((1, 2)) - first.mean((1, 2)))[0] / (second.mean((1, 2)) - first.mean((1, 2)))[0]
    assert 0 <= share <= 1
    amplitude = np.where(low, (1 - share) * abs(f) + share * abs(g), abs(f))
    np.testing.assert_allclose(found[0], np.fft.ifft2(amplitude * np.exp(1j * np.angle(f))).real, atol=1e-6)


def test_the_style_comes_from_all_other_images_and_never_from_the_image_itself():
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    found = torch.stack([FourierStyle()(images)[:, 0, 0, 0] for _ in range(300)])
    assert (found != images[:, 0, 0, 0]).all()
    assert found[:, 1].min() < 0.1 and found[:, 1].max() > 0.9 and found[:, 0].max() > 0.9
    assert torch.equal(FourierStyle()(images[:1]), images[:1])


def test_a_style_is_taken_up_to_the_strength():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    found = torch.stack([FourierStyle(0.5, band=0)(images)[:, 0, 0, 0] for _ in range(400)])
    torch.testing.assert_close(
        found[:, 0].quantile(torch.tensor([0.25, 0.5])), torch.tensor([0.125, 0.25]), atol=0.04, rtol=0
    )
    assert 0.45 < found[:, 0].max() <= 0.5 <= found[:, 1].min() < 0.55


@pytest.mark.parametrize("size", [(8, 8), (9, 6)])
@pytest.mark.parametrize("area", [0.001, 0.3, 1.0])
def test_a_batch_takes_the_low_amplitudes_of_one_of_its_images(size, area):
    images = torch.tensor(np.random.default_rng(1).uniform(0.45, 0.55, (4, 3, *size)))
    found = BatchStyle((area, area))(images)
    means = found.mean((2, 3))
    torch.testing.assert_close(means, means[:1].expand(4, 3))
    (style,) = (place for place, image in enumerate(images) if torch.allclose(image.mean((1, 2)), means[0]))
    low = np.maximum(*np.meshgrid(*(abs(np.fft.fftfreq(side)) for side in size), indexing="ij")) <= area**0.5 / 2
    spectra = np.fft.fft2(images.numpy())
    amplitude = np.where(low, abs(spectra[style]), abs(spectra))
    np.testing.assert_allclose(found, np.fft.ifft2(amplitude * np.exp(1j * np.angle(spectra))).real, atol=1e-6)
    drawn = torch.stack([BatchStyle()(images)[0, 0].mean() for _ in range(60)])
    assert len(drawn.round(decimals=6).unique()) == 4  # each image lends its style


def test_large_and_small_crops_are_drawn_as_often_as_asked():
    images = torch.rand(3, 3, 32, 32)
    for settings, sizes in (
        ({}, [32] * 2 + [14] * 6),
        ({"large": 1, "small": 0}, [32]),
        ({"small": 1, "small_size": (9, 9)}, [32, 32, 9]),
    ):
        views = MultiCrop(3, (32, 32), **settings)(images)
        assert [tuple(view.shape) for view in views] == [(3, 3, size, size) for size in sizes]
        assert len({float(view.sum()) for view in views}) == len(views)
    assert [view.shape[2:] for view in MultiCrop(1, (8, 9))(torch.rand(2, 1, 8, 9))][-1] == (4, 4)


def test_crops_of_several_shots_go_round_them():
    """Shots of one grey each are told apart by their views, large ones first."""
    shots = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1, 1).expand(2, 3, 3, 16, 16)
    views = MultiCrop(3, (16, 16), 2, 2, large_scale=(1.0, 1.0))
    for part in (views.augment_large, views.augment_small):
        del part[1:]
    for view, grey in zip(views(shots), (0.1, 0.5, 0.9, 0.1), strict=True):
        torch.testing.assert_close(view, torch.full_like(view, grey))


def test_crops_show_the_share_of_the_image_that_was_asked_for():
    """On a ramp from left to right, what a crop spans in brightness is its width."""
    ramp = torch.linspace(0, 1, 64).expand(400, 3, 64, 64)
    views = MultiCrop(3, (64, 64), 1, 1, (64, 64), (0.64, 0.64), (0.09, 0.09))
    for part in (views.augment_large, views.augment_small):
        del part[1:]  # leave the crop alone
    for view, side in zip(views(ramp), (0.8, 0.3), strict=True):
        width = view[:, 0, 0, -1] - view[:, 0, 0, 0]
        area = width * (view[:, 0].amax((1, 2)) - view[:, 0].amin((1, 2)))
        assert abs(float(width.mean()) - side) < 0.04 and float(area.mean()) > 0


def test_crops_that_are_cut_are_windows_of_the_enlarged_image():
    images = torch.rand(600, 3, 16, 14)
    enlarged = torch.nn.functional.interpolate(images, (18, 16), mode="bilinear", antialias=True)
    views = MultiCrop(3, (16, 14), 2, 2, (6, 4), cut=True)(images)
    assert [tuple(view.shape[1:]) for view in views] == [(3, 16, 14)] * 2 + [(3, 6, 4)] * 2
    for view in views:
        windows = enlarged.unfold(2, view.shape[2], 1).unfold(3, view.shape[3], 1)  # (N, C, down, right, height, width)
        same = (windows == view[:, :, None, None]).all(5).all(4).all(1)
        assert same.sum((1, 2)).eq(1).all()  # each image has its own window
        assert same.any(0).float().mean() > 0.8  # and they lie everywhere
        assert same[:, 0].any() and same[:, -1].any() and same[:, :, 0].any() and same[:, :, -1].any()


def test_a_large_crop_of_the_scale_of_image_views_is_theirs():
    images = torch.rand(4, 3, 16, 16)
    torch.manual_seed(5)
    expected = ImageViews(3, (16, 16), 2)(images)
    torch.manual_seed(5)
    assert all(map(torch.equal, MultiCrop(3, (16, 16), 2, 0, large_scale=(0.2, 1.0))(images), expected))


def test_only_dimensions_of_low_variance_are_perturbed():
    generator = np.random.default_rng(1)
    images = (
        0.5
        + 0.02
        * generator.normal(size=(300, 16))
        @ np.diag(np.linspace(0.2, 2, 16))
        @ generator.normal(size=(16, 16))
        / 4
    )
    batch = torch.tensor(images.reshape(300, 1, 4, 4))
    perturb = LowVariancePerturb(batch, share=0.25, strength=2.0)
    found = perturb(batch[:1].expand(20000, 1, 4, 4)).flatten(1).numpy() - images[0]
    variances, vectors = np.linalg.eigh(np.cov(images.T))  # lowest first
    moved = found @ vectors
    np.testing.assert_allclose(moved[:, 4:], 0, atol=1e-10)
    np.testing.assert_allclose(moved[:, :4].std(0), 2 * np.sqrt(variances[:4]), rtol=0.03)
    np.testing.assert_allclose(perturb.deviations.numpy(), np.sqrt(variances[::-1]), rtol=1e-9)


def test_few_images_have_the_components_of_their_covariance():
    images = torch.rand(9, 1, 4, 5, dtype=torch.float64)
    perturb = LowVariancePerturb(images, share=0.0)
    assert perturb.components.shape == (8, 20)
    torch.testing.assert_close(perturb(images), images)  # the code holds all of them
    expected = np.linalg.eigvalsh(np.cov(images.flatten(1).numpy().T))[::-1][:8]
    np.testing.assert_allclose(perturb.deviations.numpy() ** 2, expected, rtol=1e-9)


def test_autocast_does_not_blur_what_is_not_perturbed():
    images = torch.rand(9, 1, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LowVariancePerturb(images, share=0.0)(images), images)


def test_perturbed_images_stay_in_range_and_of_one_shape():
    images = torch.rand(50, 3, 4, 4).round()
    found = LowVariancePerturb(images, 1.0, 5.0)(images)
    assert found.min() == 0 and found.max() == 1
    with pytest.raises(ValueError, match=r"images has shape \(2, 1, 4, 4\) and the components"):
        LowVariancePerturb(images)(torch.rand(2, 1, 4, 4))


# Series


def test_noise_and_factors_have_the_deviation_that_was_asked_for():
    series = torch.randn(4000, 2, 9, dtype=torch.float64)
    added = Jitter(0.3)(series) - series
    assert abs(float(added.std()) - 0.3) < 0.005 and abs(float(added.mean())) < 0.005
    factors = Scaled(0.2)(series) / series
    torch.testing.assert_close(factors, factors[:, :, :1].expand_as(factors))
    assert abs(float(factors[:, :, 0].std()) - 0.2) < 0.01 and abs(float(factors.mean()) - 1) < 0.01
    assert abs(float(torch.corrcoef(factors[:, :, 0].T)[0, 1])) < 0.05


CHANGES = [Reversed(), Permuted(), Warped()]


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: type(each).__name__)
def test_exactly_the_marked_rows_are_changed(change):
    series = torch.randn(40, 2, 13)
    where = torch.rand(40) < 0.5
    found = change.applied(series, where)
    assert torch.equal((found != series).flatten(1).any(1), where)
    assert torch.equal(change.applied(series, torch.zeros(40, dtype=torch.bool)), series)
    for wrong in (where.float(), where[:3], where[:, None]):
        with pytest.raises(ValueError, match=f"{type(change).__name__}: where is a tensor"):
            change.applied(series, wrong)


@pytest.mark.parametrize("kind", [Reversed, Permuted, Warped])
def test_series_are_changed_with_the_probability_that_was_asked_for(kind):
    series = torch.randn(2000, 1, 12)
    for p, least, most in ((0.0, 0, 0), (0.3, 0.26, 0.34), (1.0, 1, 1)):
        share = (kind(p=p)(series) != series).flatten(1).any(1).float().mean()
        assert least <= float(share) <= most


def test_backwards_is_backwards():
    series = torch.randn(4, 2, 7)
    assert np.array_equal(Reversed(1.0)(series).numpy(), series.numpy()[:, :, ::-1])


@pytest.mark.parametrize(("segments", "length"), [(2, 2), (2, 7), (3, 3), (4, 10), (5, 12)])
def test_segments_keep_their_inside_and_all_other_orders_come(segments, length):
    times = torch.arange(float(length)).expand(3000, 2, -1)
    found = Permuted(segments)(times)
    assert torch.equal(found[:, 0], found[:, 1])
    cut = [[t for t in range(length) if t * segments // length == k] for k in range(segments)]
    orders = list(itertools.permutations(range(segments)))[1:]
    expected = {tuple(float(t) for k in order for t in cut[k]) for order in orders}
    assert {tuple(row) for row in found[:, 0].tolist()} == expected
    with pytest.raises(ValueError, match=f"Permuted: batch has shape .* there are {segments} segments"):
        Permuted(segments)(times[:, :, : segments - 1])


def test_warped_time_is_smooth_and_rises_from_end_to_end():
    times = torch.arange(50.0, dtype=torch.float64).expand(300, 1, -1)
    deviation, knots = 0.5, 5
    found = Warped(deviation, knots)(times)[:, 0].numpy()  # reading the times shows the warp itself
    np.testing.assert_allclose(found[:, [0, -1]], np.tile([0, 49], (300, 1)), atol=1e-9)
    speeds = np.diff(found)
    assert (speeds > 0).all()
    # Between knots the speed is a straight line; where it bends is known.
    bends = np.abs(np.diff(speeds, 2))
    places = np.arange(1, 47 + 1)
    near = np.abs(places[:, None] - np.linspace(0, 48, knots)[None]).min(1) < 1
    assert bends[:, ~near].max() < 1e-9 < bends[:, near].max()
    logs = np.log(speeds[:, [0, 12, 24, 36, 48]])
    assert abs((logs - logs.mean(1, keepdims=True)).std() - deviation * np.sqrt(1 - 1 / knots)) < 0.04
    torch.testing.assert_close(Warped(0.0)(times), times)
    assert torch.equal(Warped()(times[:, :, :1]), times[:, :, :1])
