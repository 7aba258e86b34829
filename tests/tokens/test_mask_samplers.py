# SPDX-License-Identifier: Apache-2.0
"""Test samplers of masks: the form of every draw, the distribution of draws, and the errors of wrong arguments."""

from __future__ import annotations

import math
import re
from functools import partial

import pytest
import torch

import sslkernels.functional as SF

DRAWS = 2000
SAMPLERS = {
    "random_masking": partial(SF.random_masking, 3, 16, 0.75),
    "block_masks": partial(SF.block_masks, 3, 14, 14),
    "span_mask": partial(SF.span_mask, 3, 60, 0.5, 10),
    "tube_masks": partial(SF.tube_masks, 3, 4, 14, 14),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(drawn: object) -> list[torch.Tensor]:
    return [drawn] if isinstance(drawn, torch.Tensor) else [tensor for part in drawn for tensor in flat(part)]


def assert_frequencies(found: torch.Tensor, expected: torch.Tensor, draws: int) -> None:
    """Shares of ``draws`` are what they should be, within five standard deviations each."""
    deviation = (expected * (1 - expected) / draws).sqrt().clamp_min(1e-9)
    assert ((found - expected).abs() / deviation).max() < 5


def grid_mask(index: torch.Tensor, length: int) -> torch.Tensor:
    return torch.zeros(len(index), length, dtype=torch.bool).scatter(1, index, True)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_generator_decides_the_draw(name):
    first, again, other = (flat(SAMPLERS[name](generator=seeded(s))) for s in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.manual_seed(5)
    first = flat(SAMPLERS[name]())
    torch.manual_seed(5)
    assert all(map(torch.equal, first, flat(SAMPLERS[name]())))


@pytest.mark.parametrize("ratio", [0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 16), (2, 197)])
def test_random_masking_is_that_of_mae(seed, batch, length, ratio):
    ids_keep, ids_restore, mask = SF.random_masking(batch, length, ratio, generator=seeded(seed))
    noise = torch.rand(batch, length, generator=seeded(seed))
    ids_shuffle = noise.argsort(1)
    kept = int(length * (1 - ratio))
    assert torch.equal(ids_keep, ids_shuffle[:, :kept])
    assert torch.equal(ids_restore, ids_shuffle.argsort(1))
    exact = torch.ones(batch, length)
    exact[:, :kept] = 0
    assert torch.equal(mask, exact.gather(1, ids_restore))
    assert (ids_keep.dtype, ids_restore.dtype, mask.dtype) == (torch.int64, torch.int64, torch.float32)


def test_random_masking_keeps_every_token_and_pair_alike(seed):
    draws, length, kept = 20000, 12, 5
    ids_keep, _, mask = SF.random_masking(draws, length, 1 - kept / length - 1e-9, generator=seeded(seed))
    assert ids_keep.shape[1] == kept
    stays = 1 - mask
    assert_frequencies(stays.mean(0), torch.tensor(kept / length), draws)
    pairs = (stays.T @ stays / draws)[tuple(torch.triu_indices(length, length, 1))]
    assert_frequencies(pairs, torch.tensor(kept * (kept - 1) / (length * (length - 1))), draws)
    # The token that comes first among the kept ones is equally random.
    assert_frequencies(ids_keep[:, 0].bincount(minlength=length) / draws, torch.tensor(1 / length), draws)


@pytest.mark.parametrize("shape", [(14, 14), (7, 10), (16, 16)])
def test_blocks_are_rectangles_and_contexts_hold_none_of_them(seed, shape):
    height, width = shape
    enc, pred = SF.block_masks(32, *shape, enc_blocks=2, pred_blocks=3, min_keep=1, generator=seeded(seed))
    assert (len(enc), len(pred)) == (2, 3)
    targets = torch.zeros(32, height * width, dtype=torch.bool)
    for index in pred:
        assert index.dtype == torch.int64 and index.shape == pred[0].shape
        rows, columns = index // width, index % width
        down, across = (axis.amax(1) - axis.amin(1) + 1 for axis in (rows, columns))
        assert ((down * across) == index.shape[1]).all() and (index.diff(dim=1) > 0).all()
        assert ((0 <= index) & (index < height * width)).all()
        targets |= grid_mask(index, height * width)
    for index in enc:
        assert index.dtype == torch.int64 and index.shape == enc[0].shape
        assert (index.diff(dim=1) > 0).all()
        assert not (grid_mask(index, height * width) & targets).any()


def test_contexts_are_the_first_tokens_of_what_targets_leave(seed):
    enc, pred = SF.block_masks(64, 14, 14, enc_scale=(1, 1), generator=seeded(seed))
    left = ~torch.stack([grid_mask(index, 196) for index in pred]).any(0)
    shortest = int(left.sum(1).min())
    for index, free in zip(enc[0], left, strict=True):
        assert index.tolist() == free.nonzero()[:shortest, 0].tolist()


def test_targets_cover_every_place_that_fits_alike(seed):
    """With rows 0 to 5 and columns 0 to 6, blocks of 2x3 have 5 x 5 places."""
    _, (index,) = SF.block_masks(
        DRAWS,
        6,
        7,
        pred_scale=(6.2 / 42, 6.2 / 42),
        aspect_ratio=(0.66, 0.66),
        pred_blocks=1,
        min_keep=1,
        generator=seeded(seed),
    )
    assert index.shape == (DRAWS, 6)
    first = index[:, 0].bincount(minlength=42).view(6, 7) / DRAWS
    expected = torch.zeros(6, 7)
    expected[:5, :5] = 1 / 25
    assert_frequencies(first, expected, DRAWS)


def test_sizes_stay_in_their_ranges_and_vary(seed):
    generator = seeded(seed)
    areas, ratios = [], []
    for _ in range(300):
        _, (index, *_) = SF.block_masks(1, 40, 40, min_keep=1, generator=generator)
        rows, columns = index[0] // 40, index[0] % 40
        h, w = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
        areas.append(h * w / 1600)
        ratios.append(h / w)
    assert 0.14 < min(areas) < 0.155 and 0.195 < max(areas) < 0.21
    assert 0.7 < min(ratios) < 0.8 and 1.4 < max(ratios) < 1.6


def collator(height, width, enc, pred, min_keep, generator):
    """Draw a context as the official collator does, for blocks of given sizes that may lie wherever they fit."""

    def sample(h, w):
        top, left = (int(torch.randint(size, (1,), generator=generator)) for size in (height - h + 1, width - w + 1))
        mask = torch.zeros(height, width, dtype=torch.bool)
        mask[top : top + h, left : left + w] = True
        return mask

    regions = [~sample(*pred) for _ in range(4)]
    tries, timeout = 0, 20
    while True:
        mask = sample(*enc)
        for region in regions[: max(len(regions) - tries, 0)]:
            mask &= region
        if mask.sum() >= min_keep:
            return mask.flatten()
        timeout -= 1
        if timeout == 0:
            tries, timeout = tries + 1, 20


@pytest.mark.parametrize("min_keep", [1, 7, 9])
def test_contexts_are_distributed_as_the_official_collators(seed, min_keep):
    """Contexts are 4x4 on a grid of 6x6, targets 2x2: at 9 of 16 tokens many need a search, and some relaxation."""
    found, official = torch.zeros(36), torch.zeros(36)
    sizes, official_sizes = [], []
    generator = seeded(seed)
    for _ in range(DRAWS):
        (index,), pred = SF.block_masks(
            1,
            6,
            6,
            enc_scale=(16.5 / 36, 16.5 / 36),
            pred_scale=(4.5 / 36, 4.5 / 36),
            aspect_ratio=(1, 1),
            min_keep=min_keep,
            generator=generator,
        )
        assert index.shape[1] >= min_keep and pred[0].shape == (1, 4)
        found[index[0]] += 1
        sizes.append(index.shape[1])
        mask = collator(6, 6, (4, 4), (2, 2), min_keep, generator)
        official += mask
        official_sizes.append(int(mask.sum()))
    pooled = (found + official) / (2 * DRAWS)
    # The difference of two shares has the variance of one share of half as many draws.
    assert_frequencies((found - official) / DRAWS / 2 + pooled, pooled, 2 * DRAWS)
    sizes, official_sizes = torch.tensor(sizes).float(), torch.tensor(official_sizes).float()
    assert abs(sizes.mean() - official_sizes.mean()) < 5 * math.sqrt(2 / DRAWS) * sizes.std()


def test_the_last_targets_are_overlapped_where_no_place_keeps_enough(seed):
    relaxed = 0
    generator = seeded(seed)
    for _ in range(300):
        (context,), pred = SF.block_masks(
            1, 4, 4, enc_scale=(1, 1), pred_scale=(0.26, 0.26), aspect_ratio=(1, 1), min_keep=7, generator=generator
        )
        for kept in range(4, -1, -1):
            left = set(range(16)).difference(*(index[0].tolist() for index in pred[:kept]))
            if len(left) >= 7:
                break
        relaxed += kept < 4
        assert set(context[0].tolist()) == left
    assert relaxed > 10


def test_overlap_is_allowed_on_request(seed):
    (context,), _ = SF.block_masks(8, 10, 10, enc_scale=(0.81, 0.81), allow_overlap=True, generator=seeded(seed))
    assert context.shape == (8, 81)


@pytest.mark.parametrize(("prob", "span", "spans"), [(0.5, 10, 3), (0.2, 1, 12), (0.0, 7, 2)])
def test_spans_start_everywhere_alike(seed, prob, span, spans):
    length = 60
    generator = seeded(seed)
    rows = torch.cat([SF.span_mask(1, length, prob, span, generator=generator) for _ in range(DRAWS)])
    starts = length - span + 1
    covering = [min(t, starts - 1) - max(0, t - span + 1) + 1 for t in range(length)]
    expected = torch.tensor([1 - math.comb(starts - c, spans) / math.comb(starts, spans) for c in covering])
    assert_frequencies(rows.float().mean(0), expected, DRAWS)
    for row in rows[:200].tolist():
        runs = [len(run) for run in re.findall("1+", "".join(str(int(step)) for step in row))]
        assert min(runs) >= span and len(runs) <= spans


def test_every_row_has_as_many_masked_steps_and_they_lie_in_spans(seed):
    mask = SF.span_mask(64, 200, 0.65, 10, generator=seeded(seed))
    assert (mask.dtype, mask.shape) == (torch.bool, (64, 200))
    assert mask.sum(1).unique().numel() == 1
    assert 0.3 < mask.float().mean() < 0.5  # 13 spans of 10 of 200 that overlap: 49 % at most, less what is cut
    assert not SF.span_mask(2, 20, 0.0, 5, min_spans=0).any()
    assert SF.span_mask(2, 20, 1.0, 20, min_spans=1).all()


def test_the_number_of_spans_is_rounded_at_random(seed):
    """There are 2.4 spans of one step: two or three, and three in four draws of ten."""
    generator = seeded(seed)
    counts = [int(SF.span_mask(1, 24, 0.1, 1, generator=generator).sum()) for _ in range(DRAWS)]
    assert set(counts) == {2, 3}
    assert_frequencies(torch.tensor(counts.count(3) / DRAWS), torch.tensor(0.4), DRAWS)


def test_tubes_are_the_same_in_every_frame_and_the_context_is_the_rest(seed):
    (enc,), (pred,) = SF.tube_masks(16, 5, 14, 14, generator=seeded(seed))
    for index in (enc, pred):
        assert index.dtype == torch.int64 and (index.diff(dim=1) > 0).all()
        frames = index.view(16, 5, -1)
        assert torch.equal(frames - torch.arange(5)[:, None] * 196, frames[:, :1].expand_as(frames))
    hidden, seen = grid_mask(pred, 980), grid_mask(enc, 980)
    assert not (hidden & seen).any()
    for sample in range(16):  # one of the two spans is cut, or none
        (own_enc,), (own_pred,) = SF.tube_masks(1, 1, 14, 14, generator=seeded(sample))
        assert own_enc.shape[1] + own_pred.shape[1] == 196


def test_tubes_cover_every_place_that_fits_alike(seed):
    _, (pred,) = SF.tube_masks(
        DRAWS, 1, 5, 5, pred_scale=(0.16, 0.16), aspect_ratio=(1, 1), pred_blocks=1, generator=seeded(seed)
    )
    places = torch.zeros(25)
    places[[5 * top + left for top in range(4) for left in range(4)]] = 1 / 16
    assert_frequencies(pred[:, 0].bincount(minlength=25) / DRAWS, places, DRAWS)


def test_videos_without_a_context_are_drawn_again(seed):
    """Two blocks of 4x2 cover a frame of 4x4 in two draws of nine."""
    (enc,), (pred,) = SF.tube_masks(
        500, 2, 4, 4, pred_scale=(0.5, 0.5), aspect_ratio=(2, 2), pred_blocks=2, generator=seeded(seed)
    )
    assert enc.shape[1] >= 2 and pred.shape[1] >= 2


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: SF.random_masking(0, 4, 0.5), ValueError, "random_masking: batch is 0; pass a whole number"),
        (lambda: SF.random_masking(2, 4.0, 0.5), ValueError, "random_masking: length is 4.0; pass a whole number"),
        (lambda: SF.random_masking(2, 4, 1.5), ValueError, "random_masking: ratio is 1.5; pass a number from 0 to 1"),
        (lambda: SF.random_masking(2, 4, "most"), TypeError, "random_masking: ratio is a str; pass a number"),
        (lambda: SF.block_masks(2, 0, 4), ValueError, "block_masks: height is 0; pass a whole number"),
        (lambda: SF.block_masks(2, 14, 14, pred_blocks=0), ValueError, "block_masks: pred_blocks is 0"),
        (
            lambda: SF.block_masks(2, 14, 14, pred_scale=(0.5, 0.2)),
            ValueError,
            "block_masks: pred_scale is (0.5, 0.2); pass (low, high) with 0 < low <= high <= 1.",
        ),
        (
            lambda: SF.block_masks(2, 14, 14, aspect_ratio=1.0),
            TypeError,
            "block_masks: aspect_ratio is 1.0; pass (low, high) with 0 < low <= high.",
        ),
        (
            lambda: SF.block_masks(2, 3, 3),
            ValueError,
            "block_masks: min_keep is 10 and a context block of scale 0.85 has 9 of the 3x3 tokens; "
            "lower min_keep or raise enc_scale.",
        ),
        (
            lambda: SF.span_mask(2, 5, 0.5, 10),
            ValueError,
            "span_mask: span is 10 and length 5; pass a span of at most 5.",
        ),
        (lambda: SF.span_mask(2, 20, -0.1, 10), ValueError, "span_mask: prob is -0.1; pass a number from 0 to 1"),
        (
            lambda: SF.span_mask(2, 10, 0.5, 10),
            ValueError,
            "span_mask: min_spans is 2 and a span can start at 1 steps; pass a whole number from 0 to 1.",
        ),
        (lambda: SF.tube_masks(2, 0, 4, 4), ValueError, "tube_masks: frames is 0; pass a whole number"),
        (
            lambda: SF.tube_masks(2, 1, 4, 4, pred_scale=(1, 1), aspect_ratio=(1, 1)),
            ValueError,
            "tube_masks: pred_scale is (1, 1) and 8 blocks of 4x4 tokens leave nothing of a frame of 4x4; "
            "lower pred_scale or pred_blocks.",
        ),
    ],
)
def test_wrong_arguments_get_a_sentence(call, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        call()
