# SPDX-License-Identifier: Apache-2.0
"""Compares one random call with its formula in float64: values, gradients, and every entry that is no number.

The allowed error is not guessed. Eager PyTorch computes the same formula in the dtype of the call, at points next to
the inputs, and ours may be a few times as far from float64 as the worst of those results.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from cases import GENERATORS
from draws import DTYPES, Call, Draw
from torch import Tensor

TIMES = 16
NEAR = 3
# The error of the formula itself in float64.
FLOOR = 1e-12
SINGLE = torch.finfo(torch.float32).eps


def run(
    name: str,
    number: int,
    backend: str,
    poisoned: bool = False,
    autocast: torch.dtype | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    others: torch.dtype | None = None,
) -> None:
    """Run the case that ``number`` draws; the number stands in the message of every failure."""
    draw = Draw(number, poisoned, dtypes, others)
    call = GENERATORS[name](draw)
    shapes = [t if not isinstance(t, Tensor) else (tuple(t.shape), t.stride()) for t in call.tensors]
    what = f"run({name!r}, {number}, {backend!r}, {poisoned}, {autocast}, {dtypes}, {others})"
    what += f" of {draw.dtype}, {shapes}, {call.options}"
    try:
        check(call, draw, backend, poisoned, autocast)
    except Exception as error:
        raise AssertionError(f"{what}\n{type(error).__name__}: {error}") from error


def check(call: Call, draw: Draw, backend: str, poisoned: bool, autocast: torch.dtype | None) -> None:
    leaves = [_leaf(t, t.dtype) if isinstance(t, Tensor) else t for t in call.tensors]
    with _autocast(autocast):
        values = _listed(call.ours(*leaves, backend=backend))
    cotangents = [torch.randn(value.shape, generator=draw.generator).to(value.dtype).double() for value in values]
    if poisoned:  # now and then some rows get no gradient
        some = [c * (torch.rand(c.shape, generator=draw.generator) < 0.8) for c in cotangents]
        cotangents = [part if part.numel() > 1 else whole for part, whole in zip(some, cotangents, strict=True)]
    found = values, _gradients(values, leaves, cotangents)

    wanted = _formula(call, cotangents, torch.float64)
    coarsest = max(torch.finfo(dtype).eps for dtype in (draw.dtype, draw.others, autocast) if dtype)
    samples = [] if poisoned else [_near(call, cotangents, draw, autocast, wanted) for _ in range(NEAR)]
    if samples and coarsest > SINGLE:
        # Kernels round what they multiply, weights of rows among it, where eager PyTorch may be lucky: it rounds equal
        # logits alike, and what they cancel in is exact.
        wide = torch.float64 if draw.dtype == torch.float64 else torch.float32
        near = [_moved(c, draw, coarsest) for c in cotangents]
        samples += [_formula(call, near, wide, draw, coarsest) for _ in range(NEAR)]
    for part, kind in enumerate(("value", "gradient")):
        assert len(found[part]) == len(wanted[part])
        for place, (output, want) in enumerate(zip(found[part], wanted[part], strict=True)):
            if poisoned:  # numbers beside infinite ones are as exact as without; finite calls measure them
                bound = 10 * max(coarsest, SINGLE) * (1 + _largest(want)) * (1 + want.numel())
            else:
                floor = 1e-8 if coarsest < SINGLE else FLOOR if autocast is None else 4 * coarsest
                bound = floor * (1 + _largest(want))
                bound += call.added * coarsest * (kind == "gradient")
                bound += TIMES * call.vanishes * (SINGLE if coarsest >= SINGLE else coarsest) * (kind == "gradient")
                bound += TIMES * max(_furthest(sample[part][place], want) for sample in samples)
                bound += (
                    call.slack(call.tensors)
                    if kind == "value"
                    else call.cancels * max(coarsest, SINGLE) * (want.numel() == 1)
                )
            compare(f"{kind} {place}", output, want, bound, alike=call.split and kind == "gradient")


def compare(what: str, output: Tensor, want: Tensor, bound: float, alike: bool) -> None:
    """Compare two results; with ``alike``, infinities and NaN count as the same."""
    assert output.shape == want.shape, f"{what} has shape {tuple(output.shape)} and not {tuple(want.shape)}"
    limits = torch.finfo(output.dtype)
    output = output.detach().double()
    fits = want.abs() < limits.max / 4
    special = ~want.isfinite()
    if alike:
        output, want = (torch.where(x.isfinite(), x, torch.nan) for x in (output, want))
    for name, is_so in (("NaN", torch.isnan), ("+inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = (is_so(output) != is_so(want)) & (fits | special)
        places = [is_so(x).nonzero().tolist() for x in (output, want)]
        assert not wrong.any(), f"{what}: {name} at {places[0]}, not {places[1]}"
    want = want.detach()
    rounding = (limits.eps + 4 * min(limits.eps, SINGLE)) * want.abs() + limits.smallest_normal * limits.eps
    error = torch.where(fits, (output - want).abs() - rounding, 0)
    worst = float(error.max()) if error.numel() else 0.0
    largest = _largest(want)
    assert worst <= bound, f"{what} is off by {worst:.3g}, where {bound:.3g} is allowed and values reach {largest:.3g}"


def _formula(
    call: Call, cotangents: Sequence[Tensor], dtype: torch.dtype | None, near: Draw | None = None, epsilon: float = 0.0
) -> tuple[list[Tensor], list[Tensor]]:
    leaves = []
    for tensor in call.tensors:
        if not isinstance(tensor, Tensor):
            leaves.append(tensor)
            continue
        value = tensor.detach().double()
        if near is not None:
            value = _moved(value, near, epsilon)
        leaves.append(value.to(dtype or tensor.dtype).requires_grad_(tensor.requires_grad))
    values = _listed(call.exact(*leaves))
    return values, _gradients(values, leaves, cotangents)


def _moved(x: Tensor, draw: Draw, epsilon: float) -> Tensor:
    """Change each number by up to ``epsilon`` of itself."""
    return x * (1 + epsilon * (2 * torch.rand(x.shape, generator=draw.generator) - 1).double())


def _near(
    call: Call, cotangents: Sequence[Tensor], draw: Draw, autocast: torch.dtype | None, wanted: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute the formula in eager PyTorch in this dtype, or in float32 if that overflows."""
    dtypes = [t.dtype for t in call.tensors if isinstance(t, Tensor)]
    low = max((torch.finfo(dtype).eps for dtype in [*dtypes, *([autocast] if autocast else [])]), default=0.0)
    try:
        with _autocast(autocast):
            sample = _formula(call, cotangents, None if len(set(dtypes)) == 1 else torch.float32, draw, low)
        finite = all(
            bool((got.isfinite() | ~want.isfinite()).all())
            for part, exact in zip(sample, wanted, strict=True)
            for got, want in zip(part, exact, strict=True)
        )
        if finite:
            return sample
    except (NotImplementedError, RuntimeError):  # PyTorch lacks an operation for this dtype
        pass
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    return _formula(call, cotangents, wide, draw, low)


def _gradients(values: list[Tensor], leaves: Sequence[Any], cotangents: Sequence[Tensor]) -> list[Tensor]:
    inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    outputs = [(v, c.to(v.dtype)) for v, c in zip(values, cotangents, strict=True) if v.requires_grad]
    if not inputs or not outputs:
        return []
    return list(
        torch.autograd.grad(
            [v for v, _ in outputs], inputs, [c for _, c in outputs], allow_unused=True, materialize_grads=True
        )
    )


def _listed(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else list(values)


def _leaf(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).requires_grad_(tensor.requires_grad)


def _largest(want: Tensor) -> float:
    finite = want[want.isfinite()]
    return float(finite.detach().abs().max()) if finite.numel() else 0.0


def _furthest(got: Tensor, want: Tensor) -> float:
    gap = (got.detach().double() - want.detach()).abs()
    gap = gap[gap.isfinite()]
    return float(gap.max()) if gap.numel() else 0.0


def _autocast(dtype: torch.dtype | None) -> Any:
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)
