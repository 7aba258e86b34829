# SPDX-License-Identifier: Apache-2.0
"""Random calls of every public function. One number draws a whole call, so that the number alone repeats it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import formulas
import torch
from torch import Tensor

import sslkernels.functional as SF

DTYPES = (torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
SIZES = (1, 2, 3, 3, 5, 7, 16, 17, 33, 64)


@dataclass
class Call:
    """One call: ``ours(*tensors, backend)`` should give what ``exact(*tensors)`` gives, and so should gradients."""

    tensors: Sequence[Tensor | None]
    ours: Callable[..., Any]
    exact: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    # Some gradient is a sum of terms otherwise than the formula: infinity times zero in one may turn infinity into NaN.
    split: bool = False
    # A further error of the value that a docstring allows, given the tensors.
    slack: Callable[[Sequence[Any]], float] = lambda tensors: 0.0
    # How large the two sums are of which a number's gradient is the difference.
    cancels: float = 0.0
    # How large the terms of a gradient are, where they may cancel to nothing: to that of a teacher that is sure.
    vanishes: float = 0.0
    # How large gradients are that are rounded to the dtype of the call before they are added.
    added: float = 0.0


def on_samples(side: str | None, weight: float) -> Callable[[Sequence[Any]], float]:
    """1e-6 of all squared covariances: the side of samples takes the variances from them, see `vicreg`."""

    def slack(tensors: Sequence[Any]) -> float:
        if side == "features":
            return 0.0
        views = [z.detach().double() - z.detach().double().mean(0) for z in tensors]
        return sum(weight * 2e-6 * float((z.T @ z).square().sum()) / (len(z) - 1) ** 2 / z.shape[1] for z in views)

    return slack


class Draw:
    """The random numbers of one case."""

    def __init__(
        self, number: int, poisoned: bool, dtypes: Sequence[torch.dtype], others: torch.dtype | None = None
    ) -> None:
        """``others`` is the dtype of all tensors after the first, if it is another one."""
        self.dtypes = dtypes
        self.random, self.generator = random.Random(number), torch.Generator().manual_seed(number)
        self.poisoned, self.dtype, self.others, self.first = poisoned, self.random.choice(dtypes), others, True
        # Infinite entries make weights of zero count, so all of them must be zero, or none, in every dtype.
        self.scales = (1.0,) if poisoned else (1.0, 1.0, 1.0, 1e-3, 20.0, 0.0)

    def one_of(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def size(self, least: int = 1) -> int:
        return max(least, self.random.choice(SIZES))

    def rows(self, least: int = 1) -> int:
        """Draw a number of rows as `size` does, and now and then more than a kernel takes at once."""
        return 210 if self.random.random() < 0.04 else self.size(least)

    def tensor(self, *shape: int, grad: bool = True, dtype: torch.dtype | None = None, wild: bool = True) -> Tensor:
        """Draw normal numbers. If ``wild``, they are transposed, expanded, unaligned or have gaps."""
        layout = self.one_of("plain", "plain", "transposed", "gaps", "beside", "expanded") if wild else "plain"
        full = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        full = full * self.one_of(*self.scales) if wild else full
        if layout == "expanded":
            full = full[:1].expand(shape).clone()
        if self.poisoned and wild and full.numel() and self.random.random() < 0.7:
            for _ in range(self.one_of(1, 1, 2, 3)):
                place = tuple(self.random.randrange(size) for size in shape)
                full[place] = self.one_of(torch.inf, torch.inf, -torch.inf, torch.nan)
        drawn = self.dtype if self.first or self.others is None else self.others
        full, self.first = full.to(dtype or drawn), False
        if layout == "transposed":
            full = full.transpose(-1, -2).contiguous().transpose(-1, -2)
        elif layout == "gaps":
            full = torch.stack([full, torch.full_like(full, torch.nan)], -1).flatten(-2)[..., ::2]
        elif layout == "beside":
            full = torch.cat([full.new_zeros(1), full.flatten()])[1:].view(shape)
        elif layout == "expanded" and not self.poisoned:
            full = full[:1].expand(shape)
        return full.requires_grad_(grad)

    def scalar(self, *values: float) -> float | Tensor:
        """Draw a number, or a tensor that gets its gradient."""
        value = self.one_of(*values)
        if self.random.random() < 0.5:
            return value
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.full(self.one_of((), (1,)), value, dtype=wide, requires_grad=True)

    def index(self, *shape: int, high: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator).to(self.one_of(torch.int64, torch.int32))

    def permutations(self, batch: int, length: int) -> Tensor:
        return torch.rand(batch, length, generator=self.generator).argsort(1)


def reduced(losses: Tensor, reduction: str) -> Tensor:
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def temperatures(draw: Draw, normalize: bool) -> tuple[float, ...]:
    """Draw temperatures, mild ones for rows that are not normalised. Their products reach thousands, where float32 is
    off by 1e-4 in a logit, and as much in its exponential.
    """
    if draw.poisoned:
        return 0.5, 2.0, -1.0
    return (0.1, 0.5, 2.0, -0.3, 0.02, 100.0) if normalize else (50.0, 200.0, -100.0)


def size(scalar: float | Tensor) -> float:
    return abs(float(scalar.detach() if isinstance(scalar, Tensor) else scalar))


def longest(rows: Tensor) -> float:
    """The largest norm of a row that is a number; 0 of none."""
    norms = rows.detach().double().norm(dim=1)
    return float(norms[norms.isfinite()].amax()) if norms.isfinite().any() else 0.0


def pair(draw: Draw, least: int = 1, few: int = 1) -> tuple[Tensor, Tensor]:
    n, d = draw.rows(least), draw.size(few)
    return draw.tensor(n, d), draw.tensor(n, d, grad=draw.one_of(True, True, False))


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
    reduction = draw.one_of("mean", "sum", "none")
    scale = draw.scalar(1.0, -0.5) if draw.poisoned else draw.scalar(1.0, 14.0, 0.0, -3.0)
    return Call(
        [*pair(draw), scale],
        lambda a, b, s, backend: SF.clip_loss(a, b, s, reduction=reduction, backend=backend),
        lambda a, b, s: reduced(formulas.clip_loss(a, b, s), reduction),
        {"reduction": reduction},
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


def multi_label_bce(draw: Draw) -> Call:
    query, options = draw.tensor(draw.rows(), d := draw.size()), {"normalize": draw.one_of(True, False)}
    dictionary = draw.tensor(draw.rows(), d, grad=draw.one_of(True, False))
    positive, reduction = _places(draw, len(query), len(dictionary)), draw.one_of("mean", "sum", "none")
    return Call(
        [query, dictionary, draw.scalar(*temperatures(draw, options["normalize"]))],
        lambda q, d, t, backend: SF.multi_label_bce(
            q, d, positive, temperature=t, reduction=reduction, **options, backend=backend
        ),
        lambda q, d, t: reduced(formulas.multi_label_bce(q, d, positive, t, **options), reduction),
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


# Samplers of masks have no formula. We check what they promise, and call them twice with the same generator.


def _checked(promise: Callable[[Draw, Callable[[], torch.Generator], str], None]) -> Callable[[Draw], Call]:
    def draw_call(draw: Draw) -> Call:
        seed = draw.random.randrange(2**31)

        def ours(backend: str) -> list[Tensor]:
            promise(draw, lambda: torch.Generator().manual_seed(seed), backend)
            return []

        return Call([], ours, lambda: [])

    return draw_call


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "same generator, other masks"


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


GENERATORS: dict[str, Callable[[Draw], Call]] = {
    "alignment": alignment,
    "apply_masks": apply_masks,
    "attend_similarity": attend_similarity,
    "barlow_twins": barlow_twins,
    "block_masks": block_masks,
    "byol_loss": byol_loss,
    "clip_distillation": clip_distillation,
    "clip_loss": clip_loss,
    "covariance_penalty": covariance_penalty,
    "cross_correlation_sq": cross_correlation_sq,
    "dcl": _of_views("dcl"),
    "dclw": _of_views("dclw", sigma=(0.5, 2.0)),
    "debiased_nt_xent": _of_views("debiased_nt_xent", prior=(0.0, 0.1), hardness=(0.0, 0.5)),
    "ema_update_": ema_update_,
    "frossl": frossl,
    "gather_similarity": gather_similarity,
    "gather_tokens": gather_tokens,
    "graph_nt_xent": graph_nt_xent,
    "group_ordering": group_ordering,
    "info_nce": info_nce,
    "lejepa": lejepa,
    "linear_cross_entropy": linear_cross_entropy,
    "logsumexp_similarity": logsumexp_similarity,
    "masked_mse": masked_mse,
    "masked_smooth_l1": masked_smooth_l1,
    "mil_nce": mil_nce,
    "multi_label_bce": multi_label_bce,
    "negative_cosine_similarity": negative_cosine_similarity,
    "nt_xent": nt_xent,
    "patchify_gather": patchify_gather,
    "queue_update_": queue_update_,
    "random_masking": random_masking,
    "ressl": ressl,
    "restore_tokens": restore_tokens,
    "sampled_info_nce": sampled_info_nce,
    "scatter_tokens": scatter_tokens,
    "siglip_loss": siglip_loss,
    "sigreg": sigreg,
    "similarity_distillation": similarity_distillation,
    "softplus_similarity": softplus_similarity,
    "span_mask": span_mask,
    "sup_con": sup_con,
    "tico": tico,
    "topk_similarity": topk_similarity,
    "tube_masks": tube_masks,
    "uniformity": uniformity,
    "variance_hinge": variance_hinge,
    "vcreg": _weighed("vcreg"),
    "vibcreg": _weighed("vibcreg"),
    "vicreg": _weighed("vicreg"),
}
