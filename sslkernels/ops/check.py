# SPDX-License-Identifier: Apache-2.0
"""Find the op that is wrong: with ``SSLKERNELS_CHECK=1`` each also runs on reference, and a warning names differences.

A difference is divided by the largest number of the output in which it occurs. It may be a few roundings of the
coarsest dtype of the call. It may also be `TIMES` the change that two roundings of the inputs make to reference's own
result, if that is more: numbers that cancel each other leave nothing but rounding. The check also compares the tensors
that an op is given, so that it notices a kernel that changes an input.
A checked op takes all the time and memory of plain PyTorch and its own: use this to find a fault, not to train.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslkernels.ops.launch import dot_precision

if TYPE_CHECKING:
    from sslkernels.ops.registry import Family

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
ALLOWED_TF32 = 4e-3  # TF32 products have as many bits as float16 numbers
TIMES = 100


def beside_reference(
    family: Family, function: str, backend: str, implementation: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap the implementation: run it, run reference on copies of the same arguments, and compare the two."""
    reference = importlib.import_module(f"sslkernels.ops.{family.name}.reference")
    names = tuple(inspect.signature(getattr(reference, function)).parameters)
    scratch = family.ops[function].scratch

    @functools.wraps(implementation)
    def checked(*arguments: Any) -> Any:
        before = _copied(arguments)
        found = implementation(*arguments)
        expected, there = _on_reference(before, torch.clone)
        given = _tensors(arguments, there)
        compared = [*_pairs(("output",), (found,), (expected,)), *given]
        if any(_difference(mine, theirs) > _allowed(mine, given) for _, mine, theirs in compared):
            rounded, moved = _on_reference(before, _rounded)
            noise = [*_pairs(("output",), (rounded,), (expected,)), *_tensors(moved, there)]
            came = ", ".join(f"{name} {_described(x)}" for name, x, _ in given)
            for (name, mine, theirs), (_, other, _) in zip(compared, noise, strict=True):
                complaint = _complaint(mine, theirs, max(_allowed(mine, given), TIMES * _difference(other, theirs)))
                if complaint is not None:
                    where = f"{family.ops[function].name} on {backend}: {name}"
                    text = f"sslkernels: {where} {complaint} (SSLKERNELS_CHECK; the op was given {came})."
                    warnings.warn(text, RuntimeWarning, stacklevel=2)
        return found

    def _on_reference(arguments: Any, copy: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
        """Run reference on a copy of the arguments; return its result and the copy, to which it may have written."""
        copied = _copied(arguments, copy)
        return family.run(function, "reference", *copied), copied

    def _tensors(mine: Any, others: Any) -> list[tuple[str, Tensor, Tensor]]:
        """Pair the arguments of both, without the scratch that nobody compares."""
        return [pair for pair in _pairs(names, mine, others) if pair[0] not in scratch]

    return checked


def _copied(x: Any, copy: Callable[[Tensor], Tensor] = torch.clone) -> Any:
    if isinstance(x, Tensor):
        return copy(x.detach())
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_copied(each, copy) for each in x))
    return [_copied(each, copy) for each in x] if isinstance(x, (list, tuple)) else x


def _rounded(x: Tensor) -> Tensor:
    """Move every number by two roundings of float32 or float64; narrower ones cannot hold that and are only copied."""
    if x.dtype not in (torch.float32, torch.float64):
        return x.clone()
    signs = torch.arange(1, x.numel() + 1, device=x.device, dtype=x.dtype).view(x.shape) % 3 - 1  # nothing is drawn
    return x * (1 + 2 * signs * torch.finfo(x.dtype).eps)


def _pairs(names: tuple[str, ...], mine: Any, others: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield the name of each tensor, the tensor and its counterpart, out of lists and tuples too."""
    for name, x, y in zip(names, mine, others, strict=True):
        if isinstance(x, Tensor):
            yield name, x, y
        elif isinstance(x, (list, tuple)):
            inner = getattr(x, "_fields", None) or tuple(f"{name}[{place}]" for place in range(len(x)))
            yield from _pairs(inner, x, y)


def _allowed(mine: Tensor, given: list[tuple[str, Tensor, Tensor]]) -> float:
    dtypes = {x.dtype for x in (mine, *(x for _, x, _ in given)) if x.dtype in ALLOWED}
    if not mine.dtype.is_floating_point:
        return 0.0
    allowed = max(ALLOWED[dtype] for dtype in dtypes)
    reduced = torch.float32 in dtypes and mine.is_cuda and dot_precision() == "tf32"
    return max(allowed, ALLOWED_TF32) if reduced else allowed


def _difference(mine: Tensor, theirs: Tensor) -> float:
    """Return the largest difference divided by the largest number; infinite where only one of two is finite."""
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return math.inf
    a, b = mine.detach().double(), theirs.detach().double()
    agree = (a == b) | ~(a.isfinite() | b.isfinite())  # the order of sums decides if they are infinite or NaN
    off = torch.where(agree, 0, (a - b).abs()).nan_to_num(math.inf, math.inf)
    worst = float(off.max()) if off.numel() else 0.0
    return worst / float(torch.where(b.isfinite(), b.abs(), 0).max().clamp_min(1e-300)) if worst else 0.0


def _complaint(mine: Tensor, theirs: Tensor, allowed: float) -> str | None:
    """Say what is wrong with a tensor, or nothing."""
    if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
        return f"is {_described(mine)}, and {_described(theirs)} on reference"
    off = _difference(mine, theirs)
    return f"is off by {off:.1e} of its largest number, and {allowed:.0e} is allowed" if off > allowed else None


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
