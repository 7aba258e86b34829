# SPDX-License-Identifier: Apache-2.0
"""Random calls of every public function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import formulas
import pair_cases
import torch
from draws import Call, Draw, pair, reduced
from torch import Tensor

import sslkernels.functional as SF


def on_samples(side: str | None, weight: float) -> Callable[[Sequence[Any]], float]:
    """1e-6 of all squared covariances: the side of samples takes the variances from them, see `vicreg`."""

    def slack(tensors: Sequence[Any]) -> float:
        if side == "features":
            return 0.0
        views = [z.detach().double() - z.detach().double().mean(0) for z in tensors]
        return sum(weight * 2e-6 * float((z.T @ z).square().sum()) / (len(z) - 1) ** 2 / z.shape[1] for z in views)

    return slack


def negative_cosine_similarity(draw: Draw) -> Call:
    eps, reduction = draw.one_of(1e-8, 0.5), draw.one_of("mean", "sum", "none")
    return Call(
        pair(draw, few=2),
        lambda a, b, backend: SF.negative_cosine_similarity(a, b, eps=eps, reduction=reduction, backend=backend),
        lambda a, b: reduced(-formulas.cosine(a, b, eps), reduction),
        {"eps": eps, "reduction": reduction},
    )


def byol_loss(draw: Draw) -> Call:
    reduction = draw.one_of("mean", "sum", "none")
    return Call(
        pair(draw, few=2),
        lambda a, b, backend: SF.byol_loss(a, b, reduction=reduction, backend=backend),
        lambda a, b: reduced(2 - 2 * formulas.cosine(a, b, 1e-12), reduction),
        {"reduction": reduction},
    )


def cross_correlation_sq(draw: Draw) -> Call:
    side = draw.one_of(None, "samples", "features")
    return Call(
        pair(draw),
        lambda a, b, backend: SF.cross_correlation_sq(a, b, side=side, backend=backend),
        formulas.cross_correlation_sq,
        {"side": side},
    )


def barlow_twins(draw: Draw) -> Call:
    options = {
        "lambd": draw.one_of(5e-3, 1.0), "eps": draw.one_of(1e-5, 0.1),
        "convention": draw.one_of("official", "stable-pretraining"),
    }  # fmt: skip
    side = draw.one_of(None, "samples", "features")
    return Call(
        pair(draw, 3, 2),
        lambda a, b, backend: SF.barlow_twins(a, b, side=side, **options, backend=backend),
        lambda a, b: formulas.barlow_twins(a, b, **options),
        {"side": side, **options},
    )


def _weighed(name: str) -> Callable[[Draw], Call]:
    """Draw a call of VICReg or its kin, on two views or on one."""

    def draw_call(draw: Draw) -> Call:
        weights = {"var": draw.one_of(25.0, 1.0), "cov": draw.one_of(1.0, 20.0), "eps": draw.one_of(1e-4, 0.1)}
        views: Sequence[Tensor] = pair(draw, 3, 2)  # three rows at least: columns of two correlate exactly
        if name == "vcreg":
            views = views[:1]
        else:
            weights["sim"] = draw.one_of(25.0, 0.5)
        side = draw.one_of(None, "samples", "features")
        return Call(
            views,
            lambda *views, backend: getattr(SF, name)(*views, **weights, side=side, backend=backend),
            lambda *views: getattr(formulas, name)(*views, **weights),
            {"side": side, **weights},
            slack=on_samples(side, weights["cov"]),
        )

    return draw_call


def variance_hinge(draw: Draw) -> Call:
    eps = draw.one_of(1e-4, 0.1)
    return Call(
        pair(draw, 2)[:1],
        lambda z, backend: SF.variance_hinge(z, eps=eps, backend=backend),
        lambda z: formulas.variance_hinge(z, eps),
        {"eps": eps},
    )


def covariance_penalty(draw: Draw) -> Call:
    side = draw.one_of(None, "samples", "features")
    return Call(
        pair(draw, 2, 2)[:1],
        lambda z, backend: SF.covariance_penalty(z, side=side, backend=backend),
        formulas.covariance_penalty,
        {"side": side},
        slack=on_samples(side, 1.0),
    )


def frossl(draw: Draw) -> Call:
    n, d, weight = draw.size(2), draw.size(2), draw.one_of(1.0, 0.2)
    side = draw.one_of(None, "samples", "features")
    return Call(
        [draw.tensor(n, d) for _ in range(draw.one_of(2, 3))],
        lambda *views, backend: SF.frossl(views, invariance_weight=weight, side=side, backend=backend),
        lambda *views: formulas.frossl(views, weight),
        {"weight": weight, "side": side},
    )


def tico(draw: Draw) -> Call:
    z0, z1 = pair(draw)
    d, wide = z0.shape[1], torch.float64 if draw.dtype == torch.float64 else torch.float32
    before = draw.tensor(d, d, grad=False, dtype=wide, wild=False) if draw.one_of(True, False) else None
    options = {"beta": draw.one_of(0.9, 0.0, 1.0), "rho": draw.one_of(8.0, 0.5)}
    return Call(
        [z0, z1, before],
        lambda a, b, before, backend: SF.tico(a, b, before, **options, backend=backend),
        lambda a, b, before: formulas.tico(a, b, before, **options),
        options,
    )


def _rule(draw: Draw) -> dict[str, Any]:
    return {"knots": draw.one_of(2, 5, 17), "t_max": draw.one_of(3.0, 1.0)}


def _slices(draw: Draw, features: int) -> Tensor:
    slices = draw.tensor(features, draw.size(), grad=False, wild=False)
    return formulas.unit(slices.float().T).T.to(slices.dtype)


def sigreg(draw: Draw) -> Call:
    rule, shape = _rule(draw), (*draw.one_of((), (1,), (3,), (2, 2)), draw.size(), draw.size())
    slices = _slices(draw, shape[-1])
    return Call(
        [draw.tensor(*shape), slices],
        lambda z, slices, backend: SF.sigreg(z, slices, **rule, backend=backend),
        lambda z, slices: formulas.sigreg(z, slices, **rule),
        rule,
    )


def lejepa(draw: Draw) -> Call:
    options, n, d = {"weight": draw.one_of(0.05, 0.0, 0.7), **_rule(draw)}, draw.size(), draw.size()
    return Call(
        [draw.tensor(draw.one_of(1, 3), n, d), draw.tensor(draw.one_of(1, 2), n, d), _slices(draw, d)],
        lambda a, b, slices, backend: SF.lejepa(a, b, slices, **options, backend=backend),
        lambda a, b, slices: formulas.lejepa(a, b, slices, **options),
        options,
    )


def _mask(draw: Draw, *shape: int) -> Tensor:
    mask = (torch.rand(shape, generator=draw.generator) < 0.6).float()
    return draw.one_of(mask, mask.bool(), mask * 0.5)


def gram_loss(draw: Draw) -> Call:
    options = {"normalize": draw.one_of(True, False), "clip": draw.one_of("none", "both", "teacher")}
    images, patches, features = draw.one_of(1, 2, 5), draw.size(), draw.size()
    others = features if draw.one_of(True, True, False) else draw.size()
    return Call(
        [draw.tensor(images, patches, features), draw.tensor(images, patches, others, grad=False)],
        lambda x, y, backend: SF.gram_loss(x, y, **options, backend=backend),
        lambda x, y: formulas.gram_loss(x, y, **options).mean(),
        options,
    )


def masked_mse(draw: Draw) -> Call:
    normalize = draw.one_of(True, False)
    shape = draw.one_of(1, 2, 3), draw.size(), draw.size(2)
    mask = _mask(draw, *shape[:2])
    return Call(
        [draw.tensor(*shape), draw.tensor(*shape, grad=False)],
        lambda p, t, backend: SF.masked_mse(p, t, mask, normalize_target=normalize, backend=backend),
        lambda p, t: formulas.masked(p, t, mask, "mae" if normalize else "none", None),
        {"normalize": normalize, "mask": str(mask.dtype)},
    )


def masked_smooth_l1(draw: Draw) -> Call:
    normalize, beta = draw.one_of(True, False), draw.one_of(1.0, 0.3)
    shape = draw.one_of(1, 2, 3), draw.size(), draw.size()
    mask = draw.one_of(None, _mask(draw, *shape[:2]))
    everything = torch.ones(shape[:2]) if mask is None else mask
    return Call(
        [draw.tensor(*shape), draw.tensor(*shape, grad=False)],
        lambda p, t, backend: SF.masked_smooth_l1(
            p, t, mask, beta=beta, normalize_target=normalize, backend=backend
        ),
        lambda p, t: formulas.masked(p, t, everything, "layer" if normalize else "none", beta),
        {"normalize": normalize, "beta": beta},
    )  # fmt: skip


def _tokens(draw: Draw, least: int = 1) -> tuple[int, int, int, int]:
    """Draw the sizes B, L, C and K."""
    return draw.one_of(1, 2, 5), draw.size(least), draw.size(), draw.size()


def _positions(draw: Draw, rows: int, channels: int) -> Tensor | None:
    return draw.tensor(*draw.one_of((rows, channels), (1, rows, channels))) if draw.one_of(True, False) else None


def gather_tokens(draw: Draw) -> Call:
    b, length, c, k = _tokens(draw)
    index = draw.index(b, k, high=length)
    return Call(
        [draw.tensor(b, length, c), _positions(draw, length, c)],
        lambda x, pos, backend: SF.gather_tokens(x, index, pos=pos, backend=backend),
        lambda x, pos: formulas.gather_tokens(x, index, pos),
    )


def scatter_tokens(draw: Draw) -> Call:
    b, length, c, k = _tokens(draw)
    index = draw.index(b, k, high=length)
    fill = draw.one_of(0.0, 2.5, draw.tensor(1, c)[0])
    fills = [fill] if isinstance(fill, Tensor) else []
    return Call(
        [draw.tensor(b, k, c), *fills],
        lambda x, *fills, backend: SF.scatter_tokens(x, index, length, fill=[*fills, fill][0], backend=backend),
        lambda x, *fills: formulas.scatter_tokens(x, index, length, [*fills, fill][0]),
    )


def restore_tokens(draw: Draw) -> Call:
    b, length, c, k = _tokens(draw)
    prefix, k = draw.one_of(0, 1, 2), min(k, length)
    ids = draw.permutations(b, length)
    return Call(
        [draw.tensor(b, prefix + k, c), draw.tensor(1, 1, c), _positions(draw, prefix + length, c)],
        lambda x, token, pos, backend: SF.restore_tokens(x, ids, token, pos=pos, prefix=prefix, backend=backend),
        lambda x, token, pos: formulas.restore_tokens(x, ids, token, pos, prefix),
        {"prefix": prefix},
    )


def apply_masks(draw: Draw) -> Call:
    b, length, c, k = _tokens(draw)
    masks = [draw.index(b, k, high=length).long() for _ in range(draw.one_of(1, 2, 3))]
    return Call(
        [draw.tensor(b, length, c)],
        lambda x, backend: SF.apply_masks(x, masks, backend=backend),
        lambda x: torch.cat([formulas.gather_tokens(x, mask, None) for mask in masks]),
    )


def patchify_gather(draw: Draw) -> Call:
    b, channels, patch, down, across = draw.one_of(1, 2), draw.one_of(1, 3), draw.one_of(1, 2, 4), 2, draw.one_of(1, 3)
    index = draw.index(b, draw.size(), high=down * across)
    return Call(
        [draw.tensor(b, channels, down * patch, across * patch)],
        lambda x, backend: SF.patchify_gather(x, index, patch, backend=backend),
        lambda x: formulas.patchify_gather(x, index, patch),
        {"patch": patch},
    )


def ema_update_(draw: Draw) -> Call:
    shapes = [(draw.size(), draw.size()) for _ in range(draw.one_of(1, 2, 4))]
    ours = [draw.tensor(*shape, grad=False) for shape in shapes]
    theirs = [draw.tensor(*shape, grad=False, dtype=draw.one_of(*draw.dtypes)) for shape in shapes]
    momentum = draw.one_of(0.99, 0.5, 0.0, 1.0, torch.tensor(0.9))

    def update(*tensors: Tensor, backend: str) -> list[Tensor]:
        targets = [t.clone(memory_format=torch.contiguous_format) for t in tensors[: len(ours)]]
        SF.ema_update_(targets, tensors[len(ours) :], momentum, backend=backend)
        return targets

    def exact(*tensors: Tensor) -> list[Tensor]:
        targets, sources = tensors[: len(ours)], tensors[len(ours) :]
        if momentum in (0, 1):  # the other side has no part in the result, infinite or not
            return list(targets if momentum == 1 else sources)
        return [momentum * t + (1 - momentum) * s for t, s in zip(targets, sources, strict=True)]

    return Call([*ours, *theirs], update, exact, {"momentum": momentum})


def center_update_(draw: Draw) -> Call:
    n, k, d, momentum = draw.rows(), draw.size(), draw.size(), draw.one_of(0.0, 0.9, 1.0)

    def update(center: Tensor, rows: Tensor, weight: Tensor, backend: str) -> Tensor:
        center = center.clone(memory_format=torch.contiguous_format)
        SF.center_update_(center, rows, weight, momentum)
        return center

    return Call(
        [draw.tensor(k, grad=False, wild=False), draw.tensor(n, d, grad=False), draw.tensor(k, d, grad=False)],
        update,
        lambda center, rows, weight: momentum * center + (1 - momentum) * (rows @ weight.T).mean(0),
        {"momentum": momentum},
    )


def queue_update_(draw: Draw) -> Call:
    size, n, d = draw.size(), draw.size(), draw.size()
    position = draw.random.randrange(size)

    def update(queue: Tensor, keys: Tensor, backend: str) -> Tensor:
        queue = queue.clone(memory_format=torch.contiguous_format)
        assert SF.queue_update_(queue, keys, position, backend=backend) == (position + n) % size
        return queue

    return Call(
        [draw.tensor(size, d, grad=False), draw.tensor(n, d, grad=False)],
        update,
        lambda queue, keys: formulas.queue_update(queue, keys, position),
        {"position": position},
    )


# Functions that draw have no formula. We check what they promise, and call them twice with the same generator.


def _checked(promise: Callable[[Draw, Callable[[], torch.Generator], str], None]) -> Callable[[Draw], Call]:
    def draw_call(draw: Draw) -> Call:
        seed = draw.random.randrange(2**31)

        def ours(backend: str) -> list[Tensor]:
            promise(draw, lambda: torch.Generator().manual_seed(seed), backend)
            return []

        return Call([], ours, lambda: [])

    return draw_call


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "same generator, another draw"


@_checked
def random_masking(draw: Draw, generator: Callable[[], torch.Generator], backend: str) -> None:
    batch, length, ratio = draw.size(), draw.size(), draw.one_of(0.0, 0.3, 0.75, 1.0)
    keep, restore, mask = SF.random_masking(batch, length, ratio, generator=generator(), backend=backend)
    kept = int(length * (1 - ratio))
    places = torch.arange(length).expand(batch, length)
    assert torch.equal(restore.sort(1).values, places)
    assert torch.equal(restore.argsort(1)[:, :kept], keep)
    assert torch.equal(mask, (restore >= kept).float())
    _same((keep, mask), SF.random_masking(batch, length, ratio, generator=generator(), backend=backend)[::2])


@_checked
def block_masks(draw: Draw, generator: Callable[[], torch.Generator], backend: str) -> None:
    batch, height, width = draw.one_of(1, 2, 5), draw.one_of(6, 9, 14), draw.one_of(7, 14)
    options = {"pred_blocks": draw.one_of(1, 4), "enc_blocks": draw.one_of(1, 2), "min_keep": draw.one_of(1, 4)}
    enc, pred = SF.block_masks(batch, height, width, generator=generator(), **options)
    for block in (*enc, *pred):
        assert block.shape[0] == batch and (block[:, 1:] > block[:, :-1]).all()
        assert block.min() >= 0 and block.max() < height * width
    _same((*enc, *pred), sum(SF.block_masks(batch, height, width, generator=generator(), **options), []))


@_checked
def span_mask(draw: Draw, generator: Callable[[], torch.Generator], backend: str) -> None:
    batch, length, span = draw.size(), draw.size(12), draw.one_of(1, 3, 10)
    mask = SF.span_mask(batch, length, draw.one_of(0.0, 0.3, 1.0), span, min_spans=1, generator=generator())
    assert mask.shape == (batch, length) and mask.dtype == torch.bool
    assert mask.sum(1).unique().numel() == 1 and mask.any()


@_checked
def tube_masks(draw: Draw, generator: Callable[[], torch.Generator], backend: str) -> None:
    batch, frames, height, width = draw.one_of(1, 3), draw.one_of(1, 4), draw.one_of(7, 14), draw.one_of(8, 14)
    (enc,), (pred,) = SF.tube_masks(batch, frames, height, width, pred_blocks=2, generator=generator())
    for tokens in (enc, pred):
        tubes = tokens.view(batch, frames, -1) - height * width * torch.arange(frames)[:, None]
        assert (tubes == tubes[:, :1]).all() and tubes.min() >= 0 and tubes.max() < height * width
    assert not any(set(a.tolist()) & set(b.tolist()) for a, b in zip(enc, pred, strict=True))


@_checked
def hierarchical_kmeans(draw: Draw, generator: Callable[[], torch.Generator], backend: str) -> None:
    with torch.autocast("cpu", enabled=False):  # it refuses to lay out tensors of some dtypes
        x = draw.tensor(draw.rows(), draw.size())
    sizes = [max(1, len(x) // 2), max(1, len(x) // 5)]
    levels = SF.hierarchical_kmeans(x, sizes, generator=generator(), backend=backend)
    for (centroids, assignment), size in zip(levels, sizes, strict=True):
        assert centroids.shape == (size, x.shape[1]) and assignment.shape == (len(x),) and centroids.isfinite().all()
        assert assignment.min() >= 0 and assignment.max() < size
    _same(sum(levels, ()), sum(SF.hierarchical_kmeans(x, sizes, generator=generator(), backend=backend), ()))
    (_, low), (_, high) = levels
    assert len(torch.stack([low, high]).unique(dim=1).T) == len(low.unique())


@_checked
def balanced_sample(draw: Draw, generator: Callable[[], torch.Generator], backend: str) -> None:
    rows = draw.rows()
    labels = draw.index(rows, high=draw.size()).long()
    count = draw.random.randint(0, rows)
    sample = SF.balanced_sample(labels, count, generator=generator())
    assert len(sample) == count and (sample[1:] > sample[:-1]).all()
    sizes, taken = labels.bincount(), labels[sample].bincount(minlength=int(labels.max()) + 1)
    more = taken[taken < sizes]
    assert not len(more) or (taken.max() <= more.min() + 1)
    _same([sample], [SF.balanced_sample(labels, count, generator=generator())])


GENERATORS: dict[str, Callable[[Draw], Call]] = {
    **pair_cases.GENERATORS,
    "apply_masks": apply_masks,
    "balanced_sample": balanced_sample,
    "barlow_twins": barlow_twins,
    "block_masks": block_masks,
    "byol_loss": byol_loss,
    "covariance_penalty": covariance_penalty,
    "cross_correlation_sq": cross_correlation_sq,
    "center_update_": center_update_,
    "ema_update_": ema_update_,
    "frossl": frossl,
    "hierarchical_kmeans": hierarchical_kmeans,
    "gather_tokens": gather_tokens,
    "gram_loss": gram_loss,
    "lejepa": lejepa,
    "masked_mse": masked_mse,
    "masked_smooth_l1": masked_smooth_l1,
    "negative_cosine_similarity": negative_cosine_similarity,
    "patchify_gather": patchify_gather,
    "queue_update_": queue_update_,
    "random_masking": random_masking,
    "restore_tokens": restore_tokens,
    "scatter_tokens": scatter_tokens,
    "sigreg": sigreg,
    "span_mask": span_mask,
    "tico": tico,
    "tube_masks": tube_masks,
    "variance_hinge": variance_hinge,
    "vcreg": _weighed("vcreg"),
    "vibcreg": _weighed("vibcreg"),
    "vicreg": _weighed("vicreg"),
}
