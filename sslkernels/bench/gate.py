# SPDX-License-Identifier: Apache-2.0
"""The gate: nothing is timed before its loss and gradients were compared with float64 on the same tensors.

A provider may be off by a small multiple of the error that plain PyTorch makes in the same dtype. The largest workloads
are compared with float32, to a few roundings of their dtype: float64 would take longer than everything that is timed.
An update is made once, from the values that stood there first, and every target is compared.

Ours is held to what is allowed. A peer that is off by a little more is timed and marked, since a comparison in which it
is absent tells less.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sslkernels.bench.cases.case import Exact, Inputs, Step
from sslkernels.bench.workloads import Workload

# A provider may be off by so many times the error of plain PyTorch in the dtype.
TIMES_EAGER = 4.0
# It may always be off by so many roundings: of the dtype where the value is one number, which eager may get right by
# luck, and of float32, in which sums are kept, where it is a matrix.
ROUNDINGS = 8.0
# The worst of thousands of rows may be off by so many times as much as the whole. Ours came to 0.8 of what the whole
# may; a row that is left out is off by about 1.
TIMES_ROW = 4.0

# A peer is timed, and marked, up to so many times what is allowed.
TIMES_PEER = 4.0

_ROW = "a row of "
# Pairs up to which the truth is float64.
_MOST_EXACT = 1 << 28
# Pairs in memory at once. On a GPU small blocks would be thousands of launches.
_EXACT_BLOCK, _EAGER_BLOCK, _DEVICE_BLOCK = 1 << 23, 1 << 26, 1 << 27


@dataclass(frozen=True)
class Gate:
    """The relative errors of loss and gradients or of an update by name, those of eager, and what is allowed."""

    errors: dict[str, float]
    eager: dict[str, float]
    allowed: dict[str, float]

    @property
    def complaint(self) -> str | None:
        """A sentence about the first value that is off by more than is allowed."""
        return self._beyond(1.0)

    @property
    def refusal(self) -> str | None:
        """A sentence about the first value that is off by more than a peer may be, too."""
        return self._beyond(TIMES_PEER)

    def _beyond(self, times: float) -> str | None:
        for name, error in self.errors.items():
            if not error <= times * self.allowed[name]:  # NaN fails too
                what = name if name.removeprefix(_ROW) in ("loss", "update") else f"gradient of {name}"
                return f"the {what} is off by {error:.1e}, allowed is {self.allowed[name]:.1e}"
        return None


@dataclass(frozen=True)
class Truth:
    """The values that every provider is compared with on one workload's tensors, and by how much eager misses them.

    Where the truth is float32, it has no errors of eager.
    """

    values: dict[str, Tensor]
    eager_errors: dict[str, float]
    dtype: torch.dtype

    @classmethod
    def of(cls, workload: Workload, inputs: Inputs, exact: Exact | None = None) -> Truth:
        """The truth by the workload's case, or by a peer's ``exact``."""
        exact = exact or workload.case.exact
        if workload.case.update:
            return _UpdateTruth.before(inputs, exact)
        rows = (x.dtype for x in inputs.values() if x.dim() and x.is_floating_point())
        dtype = max(rows, key=lambda d: torch.finfo(d).eps)
        block = _DEVICE_BLOCK if device_of(inputs).type == "cuda" else _EXACT_BLOCK
        if workload.pairs > _MOST_EXACT:
            return cls(_in_blocks(exact, inputs, torch.float32, block), {}, dtype)
        values = _in_blocks(exact, inputs, torch.float64, block)
        eager = _in_blocks(exact, inputs, dtype, _EAGER_BLOCK)
        return cls(values, _errors(eager, values), dtype)

    def gate(self, step: Step, inputs: Inputs) -> Gate:
        wanted = differentiable(inputs)
        loss = step()
        gradients = slopes(loss, list(wanted.values()))
        errors = _errors({"loss": loss.detach(), **dict(zip(wanted, gradients, strict=True))}, self.values)
        allowed = {}
        for name in errors:
            value = self.values[name.removeprefix(_ROW)]
            if self.eager_errors:
                least = ROUNDINGS * torch.finfo(torch.float32 if value.dim() else self.dtype).eps
            else:  # the truth has eager's own error in float32
                least = ROUNDINGS * max(torch.finfo(self.dtype).eps, TIMES_EAGER * torch.finfo(torch.float32).eps)
            most = max(TIMES_EAGER * self.eager_errors.get(name, 0.0), least)
            allowed[name] = TIMES_ROW * most if name.startswith(_ROW) else most
        return Gate(errors, self.eager_errors, allowed)


@dataclass(frozen=True)
class _UpdateTruth(Truth):
    """The truth of an update. ``values`` are the targets before it; float64 copies are made of one at a time."""

    exact: Exact

    @classmethod
    def before(cls, inputs: Inputs, exact: Exact) -> Truth:
        start = {str(place): target.clone() for place, target in enumerate(inputs["targets"])}
        rounded = _updated(exact, start, inputs, torch.float32)
        return cls(start, {"update": _update_error(rounded, exact, start, inputs)}, torch.float32, exact)

    def gate(self, step: Step, inputs: Inputs) -> Gate:
        targets = inputs["targets"]
        for target, start in zip(targets, self.values.values(), strict=True):
            target.copy_(start)
        step()
        errors = {"update": _update_error(targets, self.exact, self.values, inputs)}
        least = ROUNDINGS * torch.finfo(self.dtype).eps
        return Gate(errors, self.eager_errors, {"update": max(TIMES_EAGER * self.eager_errors["update"], least)})


def _updated(exact: Exact, start: Mapping[str, Tensor], inputs: Inputs, dtype: torch.dtype) -> Iterable[Tensor]:
    """Yield every target after one update from ``start``, by the textbook in ``dtype``."""
    starts, sources = ((x.to(dtype) for x in side) for side in (start.values(), inputs["sources"]))
    return exact({"targets": starts, "sources": sources}, _EXACT_BLOCK)


def _update_error(moved: Iterable[Tensor], exact: Exact, start: Mapping[str, Tensor], inputs: Inputs) -> float:
    """The error of the worst number of all targets, relative to the larger of target and source.

    So one number that was forgotten shows.
    """
    worst = 0.0
    truths = _updated(exact, start, inputs, torch.float64)
    for found, truth, t, s in zip(moved, truths, start.values(), inputs["sources"], strict=True):
        error = (found.double() - truth).abs_().div_(torch.maximum(t.double().abs(), s.double().abs()))
        worst = max(float(error.max()), worst)  # in this order NaN stays
    return worst


def copied(inputs: Inputs) -> dict[str, Tensor]:
    """Copy the tensors. Lists are left out, since an update is there to change them."""
    return {name: x.detach().clone() for name, x in inputs.items() if isinstance(x, Tensor)}


@torch.no_grad()
def restored(inputs: Inputs, before: Mapping[str, Tensor]) -> str | None:
    """Put back the values that were `copied`, and name a tensor that had others."""
    changed = [name for name, x in before.items() if not torch.equal(inputs[name], x)]
    for name in changed:
        inputs[name].copy_(before[name])
    return next(iter(changed), None)


def differentiable(inputs: Inputs) -> dict[str, Tensor]:
    return {name: x for name, x in inputs.items() if isinstance(x, Tensor) and x.requires_grad}


def device_of(inputs: Inputs) -> torch.device:
    first = next(iter(inputs.values()))
    return (first if isinstance(first, Tensor) else first[0]).device


def slopes(result: Tensor, wanted: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of a loss. A result that is no number gets a random gradient first; an update has none."""
    if not wanted:
        return ()
    coming = _coming(result.shape, result.dtype, result.device) if result.dim() else None
    return torch.autograd.grad(result, wanted, coming)


@cache
def _coming(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(1)
    return torch.randn(shape, generator=generator, device=generator.device).to(device, dtype)


def _errors(values: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """The relative error of each value in its norm, and that of its worst row beside the rows' root mean square.

    One wrong row of thousands hardly shows in the norm.
    """
    found = {}
    for name, x in values.items():
        size = float(torch.linalg.vector_norm(truth[name].double()))
        off = x.double() - truth[name].double()
        found[name] = _share(float(torch.linalg.vector_norm(off)), size)
        if off.dim() > 1:
            rows = torch.linalg.vector_norm(off.flatten(0, -2), dim=1)
            found[_ROW + name] = _share(float(rows.max()), size / math.sqrt(len(rows)))
    return found


def _share(error: float, size: float) -> float:
    """Divide. Where the truth is zero, as the loss of a single row is, any error is infinite."""
    return error / size if size else 0.0 if error == 0 else math.inf


def _in_blocks(exact: Exact, inputs: Inputs, dtype: torch.dtype, block: int) -> dict[str, Tensor]:
    """Loss and gradients by the textbook in ``dtype``, with at most ``block`` pairs in memory at once."""
    x = {}
    for name, value in inputs.items():  # a learnable scale stays in float32 beside bfloat16 rows
        if not value.is_floating_point():
            x[name] = value
            continue
        kept = value.dtype if value.dim() == 0 and dtype != torch.float64 else dtype
        x[name] = value.detach().to(kept).requires_grad_(value.requires_grad)
    loss = exact(x, block)
    wanted = differentiable(x)
    gradients = slopes(loss, list(wanted.values()))
    return {"loss": loss.detach(), **dict(zip(wanted, gradients, strict=True))}
