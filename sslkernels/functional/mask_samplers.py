# SPDX-License-Identifier: Apache-2.0
"""Draws the tokens that a masked method hides, for a whole batch at once and on the device of the tokens.

Every sample keeps as many tokens as its neighbours, so that index sets are rectangular. Nothing loops over samples.
A ``generator`` makes the draw reproducible; one on the CPU gives the same masks on every device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import (
    came,
    check_fits,
    check_flag,
    check_generator,
    check_number,
    check_place,
    check_range,
    check_size,
    check_sizes,
    is_whole,
)
from sslkernels.ops.tokens import TOKENS, ranks

Pair = tuple[float, float]
Masks = tuple[list[Tensor], list[Tensor]]
# Tries to draw tubes that leave a context, before we give up.
TRIES = 100


def random_masking(
    batch: int,
    length: int,
    ratio: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep a uniformly random subset of each sample's tokens, as MAE does (He et al. 2022).

    Args:
        batch, length: samples B, and tokens L of each.
        ratio: share of tokens to remove, from 0 to 1; ``K = int(length * (1 - ratio))`` stay.
        generator: None draws from torch's global state.
        device: of the result; None takes the generator's, or torch's default.
        backend: see `logsumexp_similarity`.

    Returns:
        ``ids_keep`` int64 ``(B, K)``, the tokens that stay, in random order (the smallest key first);
        ``ids_restore`` int64 ``(B, L)``, the rank of each token, as `restore_tokens` reads it;
        ``mask`` float32 ``(B, L)``, 1 where a token is removed.

    Cost: one random number for each token and one pass over them.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> ids_keep, ids_restore, mask = SF.random_masking(2, 16, 0.75, generator=torch.Generator().manual_seed(0))
    >>> ids_keep.shape, mask.sum(1)
    (torch.Size([2, 4]), tensor([12., 12.]))
    """
    batch, length = _check_sizes("random_masking", batch=batch, length=length)
    ratio = check_number("random_masking", "ratio", ratio, least=0, most=1)
    generator, device = _check_draw("random_masking", generator, device)
    keys = _uniform((batch, length), generator, device)
    return ranks(keys, int(length * (1 - ratio)), TOKENS.choose(keys.device, keys.dtype, backend))


def block_masks(
    batch: int,
    height: int,
    width: int,
    *,
    enc_scale: Pair = (0.85, 1.0),
    pred_scale: Pair = (0.15, 0.2),
    aspect_ratio: Pair = (0.75, 1.5),
    enc_blocks: int = 1,
    pred_blocks: int = 4,
    min_keep: int = 10,
    allow_overlap: bool = False,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Masks:
    """Draw I-JEPA's blocks: targets, and a large context without them (Assran et al. 2023, section 3).

    Block sizes are drawn once for the batch, places for each sample. The arguments are those of the official collator
    (``enc_mask_scale``, ``pred_mask_scale``, ``aspect_ratio``, ``nenc``, ``npred``, ``min_keep``, ``allow_overlap``)
    with the values of its ImageNet configurations.

    Args:
        batch, height, width: samples B, and the grid of tokens, counted row by row.
        enc_scale, pred_scale: range of the share of the grid that a context and a target block cover.
        aspect_ratio: range of height over width of target blocks; context blocks are square.
        enc_blocks, pred_blocks: context and target blocks of a sample.
        min_keep: tokens that a context must keep without the targets. If no place leaves so many, the context may
            overlap the last target, then the one before it, as in the official collator.
        allow_overlap: let contexts keep the tokens of targets.
        generator, device: see `random_masking`.

    Returns:
        ``enc``, ``enc_blocks`` tensors int64 ``(B, K)``, in the order of the grid and cut to the shortest context of
        the batch; ``pred``, ``pred_blocks`` tensors int64 ``(B, h * w)``.

    A context's place is drawn among those that leave ``min_keep`` tokens; the collator finds one by trying, and asks
    for one token more. The collator also draws scale and aspect ratio from one number, and its blocks never cover the
    last row or column. Here the two are independent, and all places that fit are equally likely, as the paper has it.
    Contexts are therefore some 12 % longer than the collator's: 60 tokens against 53 on a grid of 14x14, in batches of
    64 with default arguments.
    Block sizes are Python numbers, so ``torch.compile`` breaks its graph here: draw the masks where you load images.

    Cost: a few passes over ``B * pred_blocks`` grids, and one wait for the length of the shortest context.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> enc, pred = SF.block_masks(2, 14, 14, generator=torch.Generator().manual_seed(0))
    >>> len(enc), len(pred), pred[0].shape
    (1, 4, torch.Size([2, 35]))
    """
    batch, height, width, enc_blocks = _check_sizes(
        "block_masks", batch=batch, height=height, width=width, enc_blocks=enc_blocks
    )
    batch, height, width, pred_blocks = _check_sizes(
        "block_masks", batch=batch, height=height, width=width, pred_blocks=pred_blocks
    )
    min_keep = check_size("block_masks", "min_keep", min_keep)
    enc_scale = check_range("block_masks", "enc_scale", enc_scale, most=1)
    pred_scale = check_range("block_masks", "pred_scale", pred_scale, most=1)
    aspect_ratio = check_range("block_masks", "aspect_ratio", aspect_ratio)
    allow_overlap = check_flag("block_masks", "allow_overlap", allow_overlap)
    generator, device = _check_draw("block_masks", generator, device)
    smallest = math.prod(_block_size(height, width, enc_scale[0], 1.0))
    if smallest < min_keep:
        raise ValueError(
            f"block_masks: min_keep is {min_keep} and a context block of scale {enc_scale[0]:g} has {smallest} of the "
            f"{height}x{width} tokens; lower min_keep or raise enc_scale."
        )

    h, w = _draw_size(height, width, pred_scale, aspect_ratio, generator)
    targets = _places(_uniform((batch, pred_blocks, height - h + 1, width - w + 1), generator, device))
    device = targets.device
    pred = _tokens(targets, h, w, width)

    h, w = _draw_size(height, width, enc_scale, (1.0, 1.0), generator)
    free = torch.ones((batch, 1, height, width), dtype=torch.bool, device=device)
    if not allow_overlap:
        taken = torch.zeros((batch, pred_blocks, height * width), dtype=torch.bool, device=device)
        taken = taken.scatter(2, pred, True).unflatten(2, (height, width))
        # tokens outside all targets, outside all but the last, ..., all tokens
        free = torch.cat([(taken.cumsum(1) == 0).flip(1), free], 1)
    enough = _box_sums(free, h, w) >= min_keep  # (B, relaxations, places)
    relaxed = enough.flatten(2).any(2).int().argmax(1)  # argmax takes the first of equal numbers
    sample = torch.arange(batch, device=device)
    keys = _uniform((batch, enc_blocks, height - h + 1, width - w + 1), generator, device)
    contexts = _places(torch.where(enough[sample, relaxed][:, None], keys, -1))
    inside = torch.zeros((batch, enc_blocks, height * width), dtype=torch.bool, device=device)
    inside = inside.scatter(2, _tokens(contexts, h, w, width), True)
    inside &= free[sample, relaxed].view(batch, 1, -1)
    return list(_first(inside, int(inside.sum(2).min())).unbind(1)), list(pred.unbind(1))


def span_mask(
    batch: int,
    length: int,
    prob: float,
    span: int,
    *,
    min_spans: int = 2,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Mask spans of time, as wav2vec 2.0 (Baevski et al. 2020, section 3.1) and HuBERT (Hsu et al. 2021) do.

    Args:
        batch, length: samples B, and time steps L of each.
        prob: ``prob * length / span`` spans start in a sample, rounded up or down at random (0.65 in wav2vec 2.0,
            0.8 in HuBERT). They may overlap, so that a smaller share is masked.
        span: steps of a span, 10 in both papers.
        min_spans: the fewest spans of a sample, as fairseq's ``min_masks``.
        generator, device: see `random_masking`.

    Returns:
        bool ``(B, L)``, True where a step is masked. Every row has equally many: rows with more lose random ones, as
        with fairseq's ``require_same_masks``.

    Cost: two random numbers for each step, two selections and a wait for the shortest row.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> mask = SF.span_mask(4, 100, 0.65, 10, generator=torch.Generator().manual_seed(0))
    >>> mask.shape, mask.sum(1).unique().numel()
    (torch.Size([4, 100]), 1)
    """
    batch, length = _check_sizes("span_mask", batch=batch, length=length)
    span = check_size("span_mask", "span", span)
    prob = check_number("span_mask", "prob", prob, least=0, most=1)
    generator, device = _check_draw("span_mask", generator, device)
    starts = length - span + 1
    if starts < 1:
        raise ValueError(f"span_mask: span is {span} and length {length}; pass a span of at most {length}.")
    if not is_whole(min_spans, 0) or min_spans > starts:
        raise ValueError(
            f"span_mask: min_spans is {came(min_spans)} and a span can start at {starts} steps; "
            f"pass a whole number from 0 to {starts}."
        )
    spans = int(prob * length / span + float(_uniform((1,), generator, None if generator is not None else "cpu")))
    spans = min(max(spans, min_spans), starts)
    chosen = _uniform((batch, starts), generator, device).topk(spans).indices
    # +1 where a span starts and -1 where it is over
    edges = torch.zeros((batch, length + 1), dtype=torch.int64, device=chosen.device)
    edges.scatter_add_(1, chosen, torch.ones_like(chosen)).scatter_add_(1, chosen + span, -torch.ones_like(chosen))
    mask = edges.cumsum(1)[:, :length] > 0
    keys = torch.where(mask, _uniform((batch, length), generator, chosen.device), -1)
    kept = keys.topk(int(mask.sum(1).min())).indices
    return torch.zeros_like(mask).scatter(1, kept, True)


def tube_masks(
    batch: int,
    frames: int,
    height: int,
    width: int,
    *,
    pred_scale: Pair = (0.15, 0.15),
    aspect_ratio: Pair = (0.75, 1.5),
    pred_blocks: int = 8,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Masks:
    """Hide the same blocks in every frame, as V-JEPA's tubes do (Bardes et al. 2024, section 3).

    The defaults are V-JEPA's short-range masks; ``pred_scale=(0.7, 0.7), pred_blocks=2`` are its long-range ones. It
    trains on both: put the ``enc`` of the two in one list, and the ``pred`` in another.

    Args:
        batch, frames, height, width: samples B, and the grid of tokens, counted frame by frame and row by row.
        pred_scale: range of the share of a frame that a block covers.
        aspect_ratio: range of height over width of a block.
        pred_blocks: blocks of a sample; ``pred`` is their union.
        generator, device: see `random_masking`.

    Returns:
        ``enc``, the context, and ``pred``, the tubes: lists of one tensor int64 ``(B, K)`` each. In a frame both are
        cut to the fewest tokens of the batch, in the order of the grid, so that they stay tubes.

    Cost: that of `block_masks` for one frame, and a repetition.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> (enc,), (pred,) = SF.tube_masks(2, 8, 14, 14, generator=torch.Generator().manual_seed(0))
    >>> pred.shape[1] % 8, bool((pred[:, 0] + 196 == pred[:, pred.shape[1] // 8]).all())
    (0, True)
    """
    batch, frames, height, width = _check_sizes("tube_masks", batch=batch, frames=frames, height=height, width=width)
    batch, height, width, pred_blocks = _check_sizes(
        "tube_masks", batch=batch, height=height, width=width, pred_blocks=pred_blocks
    )
    pred_scale = check_range("tube_masks", "pred_scale", pred_scale, most=1)
    aspect_ratio = check_range("tube_masks", "aspect_ratio", aspect_ratio)
    generator, device = _check_draw("tube_masks", generator, device)
    area = height * width
    h, w = _draw_size(height, width, pred_scale, aspect_ratio, generator)

    def draw(samples: int) -> Tensor:
        """Draw where blocks lie in a frame; the result is bool (samples, area)."""
        places = _places(_uniform((samples, pred_blocks, height - h + 1, width - w + 1), generator, device))
        covered = _tokens(places, h, w, width).flatten(1)
        return torch.zeros((samples, area), dtype=torch.bool, device=covered.device).scatter(1, covered, True)

    hidden = draw(batch)
    for _ in range(TRIES):
        full = hidden.all(1).nonzero()[:, 0]
        if len(full) == 0:
            break
        hidden[full] = draw(len(full))
    else:
        raise ValueError(
            f"tube_masks: pred_scale is ({pred_scale[0]:g}, {pred_scale[1]:g}) and {pred_blocks} blocks of {h}x{w} "
            f"tokens leave nothing of a frame of {height}x{width}; lower pred_scale or pred_blocks."
        )
    offsets = torch.arange(frames, device=hidden.device)[:, None] * area
    counts = hidden.sum(1)
    fewest, most = int(counts.min()), int(counts.max())
    enc, pred = _first(~hidden[:, None], area - most), _first(hidden[:, None], fewest)
    return [(enc + offsets).flatten(1)], [(pred + offsets).flatten(1)]


def _uniform(
    shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str | None = None
) -> Tensor:
    if generator is None:
        return torch.rand(shape, device=device)
    return torch.rand(shape, generator=generator, device=generator.device).to(device or generator.device)


def _block_size(height: int, width: int, scale: float, aspect_ratio: float) -> tuple[int, int]:
    """Height and width of a block, rounded as I-JEPA's collator does."""
    area = int(height * width * scale)
    h, w = round(math.sqrt(area * aspect_ratio)), round(math.sqrt(area / aspect_ratio))
    return min(max(h, 1), height), min(max(w, 1), width)


def _draw_size(
    height: int, width: int, scale: Pair, aspect_ratio: Pair, generator: torch.Generator | None
) -> tuple[int, int]:
    draws = _uniform((2,), generator, None if generator is not None else "cpu").tolist()
    share, ratio = (low + (high - low) * draw for (low, high), draw in zip((scale, aspect_ratio), draws, strict=True))
    return _block_size(height, width, share, ratio)


def _places(keys: Tensor) -> Tensor:
    """Top and left (..., 2) of the largest key among ``keys (..., tops, lefts)``."""
    place = keys.flatten(-2).argmax(-1)
    return torch.stack([place // keys.shape[-1], place % keys.shape[-1]], -1)


def _tokens(places: Tensor, h: int, w: int, width: int) -> Tensor:
    """Tokens (..., h w) of blocks of h by w at ``places (..., 2)`` on a grid of ``width`` columns, row by row."""
    rows = places[..., :1] + torch.arange(h, device=places.device)
    columns = places[..., 1:] + torch.arange(w, device=places.device)
    return (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)


def _box_sums(x: Tensor, h: int, w: int) -> Tensor:
    """Count the True in each window of h by w of ``x (..., H, W)``."""
    sums = F.pad(x.long(), (1, 0, 1, 0)).cumsum(-1).cumsum(-2)
    return sums[..., h:, w:] - sums[..., :-h, w:] - sums[..., h:, :-w] + sums[..., :-h, :-w]


def _first(inside: Tensor, count: int) -> Tensor:
    """Places (B, M, count) of the first ``count`` True in each row of ``inside (B, M, L)``; no row has fewer."""
    kept = inside & (inside.cumsum(2) <= count)
    return kept.nonzero()[:, 2].view(*inside.shape[:2], count)


def _check_sizes(function: str, **sizes: object) -> tuple[int, ...]:
    """Check whole numbers of at least 1 whose product is the size of a tensor; they come back in the same order."""
    checked = check_sizes(function, **sizes)
    largest = max(checked)
    check_fits(function, list(sizes)[checked.index(largest)], largest, math.prod(checked), itemsize=8)
    return checked


def _check_draw(function: str, generator: object, device: object) -> tuple[torch.Generator | None, torch.device | None]:
    return check_generator(function, generator), check_place(function, device)
