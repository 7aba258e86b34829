# SPDX-License-Identifier: Apache-2.0
"""Random calls of the functions that compare rows with rows: similarity, attention, sampled, sigmoid, neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import formulas
import torch
from draws import Call, Draw, longest, pair, reduced, size, temperatures
from torch import Tensor

import sslkernels.functional as SF


def logsumexp_similarity(draw: Draw) -> Call:
    n, m, d = draw.rows(), draw.rows(), draw.size()
    x, y = draw.tensor(n, d), None if draw.one_of(True, False) else draw.tensor(m, d, grad=draw.one_of(True, False))
    exclude = None
    if draw.one_of(True, False):
        exclude = draw.index(n, draw.one_of(1, 2, 4), high=(n if y is None else m) + 1).long() - 1
    scale = draw.scalar(1.0, 0.3, -0.5, 0.1) if draw.poisoned else draw.scalar(1.0, 0.0, 0.3, -2.0, 30.0)
    options = {"exclude": exclude, "dim": draw.one_of("rows", "both")}
    return Call(
        [x, y, scale],
        lambda x, y, scale, backend: SF.logsumexp_similarity(x, y, scale, **options, backend=backend),
        lambda x, y, scale: formulas.logsumexp_similarity(x, y, scale, **options),
        options,
    )


def attend_similarity(draw: Draw) -> Call:
    # Where one key has all the weight, the slopes of torch.softmax are exactly zero, and ours are rounding.
    n, m, d, dv = draw.rows(), draw.rows(6), draw.size(), draw.size()
    tensors = [draw.tensor(*shape, grad=draw.one_of(True, True, False)) for shape in ((n, d), (m, d))]
    # Equal values have slopes of zero, of which ours are a rounding. Where values are infinite, the slopes of a row are
    # NaN in other places than those of torch.softmax.
    tensors.append(draw.tensor(m, dv, grad=draw.one_of(True, True, False), wild=False))
    exclude = draw.index(n, draw.one_of(1, 2, 4), high=m + 1).long() - 1 if draw.one_of(True, False) else None
    bias = draw.tensor(m, wild=False) if draw.one_of(True, False) else None
    scale = draw.scalar(1.0, 0.3, -0.5, 0.1) if draw.poisoned else draw.scalar(0.1, 0.0, 0.3, -0.2)
    return Call(
        [*tensors, scale, bias],
        lambda q, k, v, s, b, backend: SF.attend_similarity(q, k, v, s, bias=b, exclude=exclude, backend=backend),
        lambda q, k, v, s, b: formulas.attend_similarity(q, k, v, s, b, exclude),
        {"exclude": exclude},
    )


def nt_xent(draw: Draw) -> Call:
    options, reduction = {"normalize": draw.one_of(True, False)}, draw.one_of("mean", "sum", "none")
    return Call(
        [*pair(draw), draw.scalar(*temperatures(draw, options["normalize"]))],
        lambda a, b, t, backend: SF.nt_xent(a, b, temperature=t, reduction=reduction, **options, backend=backend),
        lambda a, b, t: reduced(formulas.nt_xent(a, b, t, **options), reduction),
        {**options, "reduction": reduction},
        split=True,
    )


def _of_views(name: str, **numbers: tuple[float, ...]) -> Callable[[Draw], Call]:
    """Draw a loss of two views at their norms' length of 1, with one of each of the numbers."""

    def generate(draw: Draw) -> Call:
        options, reduction = (
            {key: draw.one_of(*some) for key, some in numbers.items()},
            draw.one_of("mean", "sum", "none"),
        )
        formula = formulas.dcl if name == "dclw" else getattr(formulas, name)
        return Call(
            [*pair(draw, least=2), draw.scalar(0.3, 0.5, 2.0)],
            lambda a, b, t, backend: getattr(SF, name)(
                a, b, temperature=t, reduction=reduction, **options, backend=backend
            ),
            lambda a, b, t: reduced(formula(a, b, t, **options), reduction),
            {**options, "reduction": reduction},
            split=True,
        )

    return generate


def sup_con(draw: Draw) -> Call:
    # Equal rows have a gradient of zero, of which sums of other terms leave a rounding.
    z, reduction = draw.tensor(draw.rows(), draw.size(), wild=False), draw.one_of("mean", "sum")
    labels = draw.index(len(z), 1, high=draw.one_of(1, 2, 5)).long()[:, 0]
    options = {"form": draw.one_of("out", "in"), "empty": draw.one_of("skip", "zero")}
    return Call(
        [z, draw.scalar(0.1, 0.5, 2.0)],
        lambda z, t, backend: SF.sup_con(z, labels, temperature=t, reduction=reduction, **options, backend=backend),
        lambda z, t: reduced(formulas.sup_con(z, labels, t, **options), reduction),
        {**options, "reduction": reduction},
        cancels=8.5,
    )


def linear_cross_entropy(draw: Draw) -> Call:
    n, k, d = draw.rows(), draw.size(2), draw.size()
    target = draw.index(n, 1, high=k).long()[:, 0]
    unit, reduction = draw.one_of(True, False), draw.one_of("mean", "sum", "none")
    subcenters = draw.one_of(1, 1, 3)
    smoothing = draw.one_of(0.0, 0.2) if subcenters == 1 else 0.0
    options: dict[str, Any] = {"label_smoothing": smoothing, "subcenters": subcenters, "normalize": unit}
    if unit:
        options |= {"margin": draw.one_of(0.0, 0.3), "margin_kind": draw.one_of("arc", "cos")}
    bias = None if unit else draw.tensor(k * subcenters, wild=False)
    x, weight = draw.tensor(n, d), draw.tensor(k * subcenters, d)
    return Call(
        [x, weight, draw.scalar(1.0, 8.0) if unit else draw.scalar(0.02), bias],
        lambda x, w, s, b, backend: SF.linear_cross_entropy(
            x, w, target, scale=s, bias=b, reduction=reduction, **options, backend=backend
        ),
        lambda x, w, s, b: reduced(formulas.linear_cross_entropy(x, w, target, s, b, **options), reduction),
        {**options, "reduction": reduction},
        cancels=n * (1 if unit else longest(x) * longest(weight)),
    )


def koleo(draw: Draw) -> Call:
    size, groups, eps = draw.one_of(2, 3, 16), draw.one_of(1, 1, 2, 5), draw.one_of(1e-8, 0.1)
    options = {"eps": eps, "group_size": None if groups == 1 else size}
    return Call(
        [draw.tensor(size * groups, draw.size())],
        lambda x, backend: SF.koleo(x, **options, backend=backend),
        lambda x: formulas.koleo(x, **options).mean(),
        options,
    )


def mean_entropy(draw: Draw) -> Call:
    n, k, d, unit = draw.rows(), draw.rows(), draw.size(), draw.one_of(True, False)
    options = {"normalize": unit}
    prior = draw.one_of(None, torch.arange(1, k + 1).pow(-0.25), torch.arange(k) + 0.0)
    prior = None if prior is None or not prior.sum() else prior / prior.sum()
    x, weight, temperature = draw.tensor(n, d), draw.tensor(k, d), draw.scalar(*temperatures(draw, unit))
    return Call(
        [x, weight, temperature, prior],
        lambda x, w, t, q, backend: SF.mean_entropy(x, w, temperature=t, prior=q, **options, backend=backend),
        lambda x, w, t, q: formulas.mean_entropy(x, w, t, q, **options),
        options,
        # Logits move with the rows' sums and against their own, each its weight times 1 / temperature^2.
        cancels=size(temperature) ** -2 * (1 if unit else longest(x) * longest(weight)),
    )


def uniformity(draw: Draw) -> Call:
    t = draw.one_of(0.5, 2.0)
    return Call(
        [draw.tensor(draw.rows(2), draw.size(), wild=False)],
        lambda z, backend: SF.uniformity(z / 4, t, backend=backend),
        lambda z: formulas.uniformity(z / 4, t),
        {"t": t},
    )


def alignment(draw: Draw) -> Call:
    power, reduction = draw.one_of(1.0, 2.0, 3.0), draw.one_of("mean", "sum", "none")
    return Call(
        [*pair(draw)],
        lambda a, b, backend: SF.alignment(a, b, power, reduction=reduction, backend=backend),
        lambda a, b: reduced(formulas.alignment(a, b, power), reduction),
        {"power": power, "reduction": reduction},
        split=True,
    )


def group_ordering(draw: Draw) -> Call:
    places = draw.one_of(2, 3, 5, 8)
    positives, steepness = draw.one_of(1, places - 1), draw.one_of(0.5, 1.0, 4.0)
    reduction = draw.one_of("mean", "sum", "none")
    return Call(
        [draw.tensor(draw.rows(), places, wild=False)],
        lambda s, backend: SF.group_ordering(s, positives, steepness=steepness, reduction=reduction),
        lambda s: reduced(formulas.group_ordering(s, positives, steepness), reduction),
        {"positives": positives, "steepness": steepness, "reduction": reduction},
        # Each layer of the network rounds once.
        slack=lambda tensors: places * min(torch.finfo(tensors[0].dtype).eps, torch.finfo(torch.float32).eps),
    )


def info_nce(draw: Draw) -> Call:
    query, key = pair(draw)
    queue = draw.tensor(draw.rows(), query.shape[1], grad=draw.one_of(True, False)) if draw.one_of(0, 1) else None
    options = {"normalize": draw.one_of(True, False), "symmetric": queue is None and draw.one_of(True, False)}
    options["margin"] = draw.one_of(0.0, 0.0, 1.5)
    reduction = draw.one_of("mean", "sum", "none")
    return Call(
        [query, key, queue, draw.scalar(*temperatures(draw, options["normalize"]))],
        lambda q, k, queue, t, backend: SF.info_nce(
            q, k, negatives=queue, temperature=t, reduction=reduction, **options, backend=backend
        ),
        lambda q, k, queue, t: reduced(formulas.info_nce(q, k, queue, t, **options), reduction),
        {**options, "reduction": reduction},
        split=True,
    )


def clip_loss(draw: Draw) -> Call:
    reduction, margin = draw.one_of("mean", "sum", "none"), draw.one_of(0.0, 0.0, 1.5)
    scale = draw.scalar(1.0, -0.5) if draw.poisoned else draw.scalar(1.0, 14.0, 0.0, -3.0)
    return Call(
        [*pair(draw), scale],
        lambda a, b, s, backend: SF.clip_loss(a, b, s, margin=margin, reduction=reduction, backend=backend),
        lambda a, b, s: reduced(formulas.clip_loss(a, b, s, margin), reduction),
        {"margin": margin, "reduction": reduction},
        split=True,
    )


def clip_distillation(draw: Draw) -> Call:
    reduction, (image, text) = draw.one_of("mean", "sum", "none"), pair(draw)
    teacher = [draw.tensor(len(image), size) for size in [draw.size()] * 2]
    scales = [draw.scalar(1.0, -0.5) if draw.poisoned else draw.scalar(1.0, 14.0, 0.0, -3.0) for _ in range(2)]
    student = size(scales[0]) * max(longest(image), longest(text))
    return Call(
        [image, text, scales[0], *teacher, scales[1]],
        lambda *given, backend: SF.clip_distillation(*given, reduction=reduction, backend=backend),
        lambda *given: reduced(formulas.clip_distillation(*given), reduction),
        {"reduction": reduction},
        added=3 * student,
        vanishes=(1 + student * max(longest(image), longest(text)))
        * (1 + size(scales[1]) * max(longest(each) for each in teacher) ** 2),
    )


def _places(draw: Draw, n: int, m: int) -> Tensor:
    return draw.index(n, draw.one_of(1, 2, 5, 9), high=m + 1) - 1


def gather_similarity(draw: Draw) -> Call:
    n, m, d = draw.rows(), draw.rows(), draw.size()
    x, y, index = draw.tensor(n, d), draw.tensor(m, d, grad=draw.one_of(True, True, False)), _places(draw, n, m)
    scale = draw.scalar(1.0, 0.3, -0.5) if draw.poisoned else draw.scalar(1.0, 0.0, 0.3, -2.0)
    present = index >= 0  # nothing arrives at the others

    return Call(
        [x, y, scale],
        lambda x, y, scale, backend: SF.gather_similarity(x, y, index, scale, backend=backend)[present],
        lambda x, y, scale: formulas.gather_similarity(x, y, index, scale)[present],
        split=True,
    )


def sampled_info_nce(draw: Draw) -> Call:
    query, positive = pair(draw)
    pool, options = draw.tensor(draw.rows(), query.shape[1]), {"normalize": draw.one_of(True, False)}
    index, reduction = _places(draw, len(query), len(pool)), draw.one_of("mean", "sum", "none")
    # Rows that one dtype makes equal are not equal in another, so the formula cannot leave the same ones out.
    options["equal"] = "keep"
    return Call(
        [query, positive, pool, draw.scalar(*temperatures(draw, options["normalize"]))],
        lambda q, p, pool, t, backend: SF.sampled_info_nce(
            q, p, pool, index, temperature=t, reduction=reduction, **options, backend=backend
        ),
        lambda q, p, pool, t: reduced(formulas.sampled_info_nce(q, p, pool, index, t, **options), reduction),
        {**options, "reduction": reduction},
    )


def mil_nce(draw: Draw) -> Call:
    video, text = draw.tensor(draw.rows(), d := draw.size()), draw.tensor(draw.rows(), d)
    options, reduction = {"normalize": draw.one_of(True, False)}, draw.one_of("mean", "sum", "none")
    positive = _places(draw, len(video), len(text))
    return Call(
        [video, text, draw.scalar(*temperatures(draw, options["normalize"]))],
        lambda v, t, at, backend: SF.mil_nce(
            v, t, positive, temperature=at, reduction=reduction, **options, backend=backend
        ),
        lambda v, t, at: reduced(formulas.mil_nce(v, t, positive, at, **options), reduction),
        {**options, "reduction": reduction},
    )


def graph_nt_xent(draw: Draw) -> Call:
    z = draw.tensor(draw.rows(), draw.size())
    options, reduction = {"normalize": draw.one_of(True, False)}, draw.one_of("mean", "sum", "none")
    positive = _places(draw, len(z), len(z))
    weights = [draw.tensor(*positive.shape, wild=False)] if draw.one_of(True, False) else []
    temperature = draw.scalar(*temperatures(draw, options["normalize"]))
    return Call(
        [z, temperature, *weights],
        lambda z, t, *w, backend: SF.graph_nt_xent(
            z, positive, *w, temperature=t, reduction=reduction, **options, backend=backend
        ),
        lambda z, t, *w: reduced(formulas.graph_nt_xent(z, positive.long(), *w, temperature=t, **options), reduction),
        {**options, "reduction": reduction},
        cancels=0.25 * size(temperature) ** -2,  # a row's pull and push are each its weight times 1 / temperature^2
    )


def similarity_distillation(draw: Draw) -> Call:
    return _taught(draw, "similarity_distillation", coefficient=draw.one_of(0.0, 0.3, 1.0))


def ressl(draw: Draw) -> Call:
    return _taught(draw, "ressl")


def _taught(draw: Draw, name: str, **options: Any) -> Call:
    query = draw.tensor(draw.rows(), d := draw.size())
    key, bank = draw.tensor(len(query), d, grad=False), draw.tensor(draw.rows(), d, grad=False)
    options["normalize"], reduction = draw.one_of(True, False), draw.one_of("mean", "sum", "none")
    options["target_temperature"] = draw.one_of(*temperatures(draw, options["normalize"]))
    temperature = draw.scalar(*temperatures(draw, options["normalize"]))
    return Call(
        [query, key, bank, temperature],
        lambda q, k, b, t, backend: getattr(SF, name)(
            q, k, b, temperature=t, reduction=reduction, **options, backend=backend
        ),
        lambda q, k, b, t: reduced(getattr(formulas, name)(q, k, b, t, **options), reduction),
        {**options, "reduction": reduction},
        split=True,
        slack=lambda tensors: _largest_logit(tensors, options["normalize"]) * (1 if reduction != "sum" else len(query)),
        vanishes=longest(bank) / size(temperature),
    )


def _largest_logit(tensors: Sequence[Any], normalize: bool) -> float:
    """Return eight roundings of the largest logit: a loss is a difference of two sums of that size."""
    query, _, bank, temperature = (torch.as_tensor(each).detach().double() for each in tensors)
    query, eps = formulas.unit(query) if normalize else query, torch.finfo(tensors[0].dtype).eps
    return float((query @ bank.T / temperature).abs().max()) * 8 * min(eps, torch.finfo(torch.float32).eps)


def prototype_cross_entropy(draw: Draw) -> Call:
    """Draw rows of one size, since logits of thousands are sure of one prototype, and leave rounding for a gradient."""
    n, k, d, e = draw.rows(), draw.rows(), draw.size(), draw.size()
    index = row_weight = None
    if draw.one_of(True, False):
        student, m = draw.tensor(n, d, wild=False), draw.rows()
        index = draw.index(n, draw.one_of(1, 2, 3), high=m + 1) - 1
    else:
        student, m = draw.tensor(draw.one_of(1, 3), n, d, wild=False), n
    if draw.one_of(True, False):
        row_weight = torch.rand(student.shape[:-1], generator=draw.generator, dtype=torch.float64).float()
        row_weight = row_weight * (row_weight > 0.3)
    weight, teacher = draw.tensor(k, d, grad=draw.one_of(True, False)), draw.tensor(m, e, grad=False, wild=False)
    teacher_weight, bias = draw.tensor(k, e, grad=False, wild=False), draw.tensor(k, grad=False, wild=False)
    temperature = draw.scalar(1.0, 4.0)
    options = {"teacher_temperature": draw.one_of(0.5, 2.0), "teacher_index": index, "row_weight": row_weight}
    largest = longest(student.flatten(0, -2)), longest(weight)
    return Call(
        [student, weight, teacher, teacher_weight, bias, temperature],
        lambda s, w, t, v, b, tau, backend: SF.prototype_cross_entropy(
            s, w, t, v, bias=b, temperature=tau, **options, backend=backend
        ),
        lambda s, w, t, v, b, tau: formulas.prototype_cross_entropy(s, w, t, v, bias=b, temperature=tau, **options),
        options,
        split=True,
        slack=lambda tensors: 8 * torch.finfo(torch.float32).eps * largest[0] * largest[1],
        vanishes=max(largest) / size(temperature) * (1 if row_weight is None else float(row_weight.sum())),
    )


def sinkhorn_bias(draw: Draw) -> Call:
    rows, weight = draw.tensor(draw.rows(), d := draw.size(), wild=False), draw.tensor(draw.rows(), d, wild=False)
    temperature, iterations = draw.one_of(1.0, 5.0, -2.0), draw.one_of(1, 2, 3)

    def exact(rows: Tensor, weight: Tensor) -> Tensor:
        logits = rows @ weight.T / temperature
        u = -logits.logsumexp(0)
        for _ in range(iterations - 1):
            u = -(logits - (logits + u).logsumexp(1, keepdim=True)).logsumexp(0)
        return u.detach()

    return Call(
        [rows.detach(), weight.detach()],
        lambda x, w, backend: SF.sinkhorn_bias(x, w, temperature, iterations=iterations, backend=backend),
        exact,
        {"temperature": temperature, "iterations": iterations},
    )


def multi_label_bce(draw: Draw) -> Call:
    query, options = draw.tensor(draw.rows(), d := draw.size()), {"normalize": draw.one_of(True, False)}
    dictionary = draw.tensor(draw.rows(), d, grad=draw.one_of(True, False))
    positive, reduction = _places(draw, len(query), len(dictionary)), draw.one_of("mean", "sum", "none")
    return Call(
        [query, dictionary, draw.scalar(*temperatures(draw, options["normalize"])), draw.scalar(0.0, -2.0)],
        lambda q, d, t, b, backend: SF.multi_label_bce(
            q, d, positive, temperature=t, bias=b, reduction=reduction, **options, backend=backend
        ),
        lambda q, d, t, b: reduced(formulas.multi_label_bce(q, d, positive, t, bias=b, **options), reduction),
        {**options, "reduction": reduction},
        split=True,
    )


def siglip_loss(draw: Draw) -> Call:
    reduction = draw.one_of("mean", "sum", "none")
    scale, bias = draw.scalar(1.0, -0.5) if draw.poisoned else draw.scalar(1.0, 14.0, 0.0, -3.0), draw.scalar(0.0, -2.0)
    return Call(
        [*pair(draw), scale, bias],
        lambda a, b, s, c, backend: SF.siglip_loss(a, b, s, c, reduction=reduction, backend=backend),
        lambda a, b, s, c: reduced(formulas.siglip_loss(a, b, s, c), reduction),
        {"reduction": reduction},
    )


def softplus_similarity(draw: Draw) -> Call:
    d, itself = draw.size(), draw.random.random() < 0.3
    x, y = draw.tensor(draw.rows(), d), None if itself else draw.tensor(draw.rows(), d)
    scale, bias = draw.scalar(1.0, -0.5) if draw.poisoned else draw.scalar(1.0, 3.0, 0.0, -3.0), draw.scalar(0.0, -2.0)
    return Call(
        [x, y, scale, bias],
        lambda x, y, s, b, backend: SF.softplus_similarity(x, y, s, b, backend=backend),
        lambda x, y, s, b: formulas.softplus_similarity(x, y, s, b),
        split=itself,
    )


def squares(tensors: Sequence[Any]) -> float:
    """Squares decide which rows are found: the root of their error may lie between the distances of two."""
    rows = [x.detach() for x in tensors if x is not None]
    eps = max(torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps for x in rows)
    return (16 * eps) ** 0.5 * max(float(x.double().norm(dim=1).max()) for x in rows)


def topk_similarity(draw: Draw) -> Call:
    """The values alone: rows that are nearly as good may change places."""
    y = draw.tensor(draw.rows(2), draw.size(), grad=False)
    x = draw.one_of(None, draw.tensor(draw.rows(), y.shape[1], grad=False))
    x, y = (y, None) if x is None else (x, y)
    n, m = len(x), len(x if y is None else y)
    options: dict[str, Any] = {"metric": draw.one_of("dot", "cosine", "euclidean")}
    if draw.one_of(True, False):
        options["exclude"] = draw.index(n, draw.one_of(1, 3), high=m + 1).long() - 1
    k = draw.one_of(1, min(m, 3), m)
    return Call(
        [x, y],
        lambda x, y, backend: SF.topk_similarity(x, y, k, **options, backend=backend)[0],
        lambda x, y: formulas.topk_similarity(x, y, k, **options),
        {**options, "k": k},
        slack=lambda tensors: squares(tensors) if options["metric"] == "euclidean" else 0.0,
    )


def kmeans(draw: Draw) -> Call:
    """One iteration from given starts, of which some may find no row.

    Nearly equal distances may be taken either way, so starts lie far apart, and rows near them.
    """
    metric, empty, k = draw.one_of("euclidean", "cosine"), draw.one_of("split", "farthest", "keep"), draw.size()
    starts = draw.tensor(k, max(k, draw.size()), grad=False, wild=False)
    starts = (starts / 16 + torch.eye(*starts.shape, dtype=starts.dtype)).detach()
    x = starts[torch.arange(max(k, draw.rows())) % draw.one_of(k, max(1, k // 2))]
    return Call(
        [x, starts],
        lambda x, starts, backend: SF.kmeans(
            x, len(starts), metric=metric, init=starts, iterations=1, empty=empty, backend=backend
        )[0],
        lambda x, starts: formulas.kmeans(x, starts, metric),
        {"metric": metric, "empty": empty},
    )


GENERATORS: dict[str, Callable[[Draw], Call]] = {
    "alignment": alignment,
    "attend_similarity": attend_similarity,
    "clip_distillation": clip_distillation,
    "clip_loss": clip_loss,
    "dcl": _of_views("dcl"),
    "dclw": _of_views("dclw", sigma=(0.5, 2.0)),
    "debiased_nt_xent": _of_views("debiased_nt_xent", prior=(0.0, 0.1), hardness=(0.0, 0.5)),
    "gather_similarity": gather_similarity,
    "graph_nt_xent": graph_nt_xent,
    "group_ordering": group_ordering,
    "info_nce": info_nce,
    "kmeans": kmeans,
    "linear_cross_entropy": linear_cross_entropy,
    "logsumexp_similarity": logsumexp_similarity,
    "mil_nce": mil_nce,
    "multi_label_bce": multi_label_bce,
    "nt_xent": nt_xent,
    "prototype_cross_entropy": prototype_cross_entropy,
    "ressl": ressl,
    "sinkhorn_bias": sinkhorn_bias,
    "sampled_info_nce": sampled_info_nce,
    "siglip_loss": siglip_loss,
    "similarity_distillation": similarity_distillation,
    "softplus_similarity": softplus_similarity,
    "sup_con": sup_con,
    "topk_similarity": topk_similarity,
    "koleo": koleo,
    "mean_entropy": mean_entropy,
    "uniformity": uniformity,
}
