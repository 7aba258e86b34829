# SPDX-License-Identifier: Apache-2.0
"""``SSLKERNELS_CHECK=1``: which op is wrong? Every one also runs on reference, and a warning names those that differ.

A difference is measured by the largest number of the output it is in, and allowed up to a few roundings of the coarsest
dtype of the call. Whatever an op writes to is compared as well, so that an input that a kernel changes shows too.
Everything takes as much time and memory as plain PyTorch does, and more: this is for finding a fault, not for training.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sslkernels.ops.launch import dot_precision

if TYPE_CHECKING:
    from sslkernels.ops.registry import Family

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
ALLOWED_TF32 = 4e-3  # its products have float16's bits


def beside_reference(
    family: Family, function: str, backend: str, implementation: Callable[..., Any]
) -> Callable[..., Any]:
    """The implementation, followed by reference's on copies of the same arguments and a comparison."""
    reference = importlib.import_module(f"sslkernels.ops.{family.name}.reference")
    names = tuple(inspect.signature(getattr(reference, function)).parameters)
    scratch = family.ops[function].scratch

    @functools.wraps(implementation)
    def checked(*arguments: Any) -> Any:
        copies = [_copied(x) for x in arguments]
        found = implementation(*arguments)
        expected = family.run(function, "reference", *copies)
        given = [pair for pair in _pairs(names, arguments, copies) if pair[0] not in scratch]
        came = ", ".join(f"{name} {_described(x)}" for name, x, _ in given)
        allowed = _allowed([x for _, x, _ in given])
        for name, mine, theirs in [*_pairs(("output",), (found,), (expected,)), *given]:
            what = _difference(mine, theirs, allowed)
            if what is not None:
                warnings.warn(
                    f"sslkernels: {family.ops[function].name} on {backend}: {name} {what} (SSLKERNELS_CHECK; {came}).",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return found

    return checked


def _copied(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.detach().clone()
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(_copied, x))
    return [_copied(each) for each in x] if isinstance(x, (list, tuple)) else x


def _pairs(names: tuple[str, ...], mine: Any, others: Any) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, tensor and its counterpart, of everything that holds tensors."""
    for name, x, y in zip(names, mine, others, strict=True):
        if isinstance(x, Tensor):
            yield name, x, y
        elif isinstance(x, (list, tuple)):
            inner = getattr(x, "_fields", None) or tuple(f"{name}[{place}]" for place in range(len(x)))
            yield from _pairs(inner, x, y)


def _allowed(tensors: list[Tensor]) -> float:
    dtypes = {x.dtype for x in tensors if x.dtype in ALLOWED}
    allowed = max((ALLOWED[dtype] for dtype in dtypes), default=0.0)
    reduced = torch.float32 in dtypes and tensors[0].is_cuda and dot_precision() == "tf32"
    return max(allowed, ALLOWED_TF32) if reduced else allowed


def _difference(mine: Tensor, reference: Tensor, allowed: float) -> str | None:
    """What is wrong with ``mine``, in words, or None."""
    if mine.shape != reference.shape or mine.dtype != reference.dtype:
        return f"is {_described(mine)} and {_described(reference)} on reference"
    a, b = mine.detach().double(), reference.detach().double()
    off = torch.where((a == b) | (a.isnan() & b.isnan()), 0, (a - b).abs()).nan_to_num(torch.inf)
    largest = float(torch.where(b.isfinite(), b.abs(), 0).max()) if b.numel() else 0.0
    worst = float(off.max()) if off.numel() else 0.0
    if worst <= allowed * largest:
        return None
    share = worst / largest if largest else torch.inf
    return f"is off by {share:.1e} of its largest number, and {allowed:.0e} is allowed"


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
