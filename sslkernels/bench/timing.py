# SPDX-License-Identifier: Apache-2.0
"""The gate, time, memory and peaks: how each number of the benchmark comes about.

The gate      A provider's loss and gradients against float64 on the same tensors. Allowed is a small multiple of the
              error that plain PyTorch makes in the provider's dtype. The largest are held against float32, to a few
              roundings of their dtype: float64 would take longer than everything that is timed.
              An update is made once, from the values that stood there first, and every target is compared.
Time          Slices of calls, providers in turn, in one process on the same tensors. A slice in which threads stood in
              the run queue (another process had the processor) is discarded and taken again.
Memory        Highest above what was there before; see `sslkernels.memory`.
Peaks         A large matrix product in that dtype and a large copy, the best of several.
"""

from __future__ import annotations

import glob
import math
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sslkernels.bench.workloads import LAMBD, MOMENTUM, SIGMOID, SIGMOID_BIAS, TEMPERATURE, Cost, Workload
from sslkernels.memory import peak_memory

Inputs = Mapping[str, Any]  # tensors by argument name; lists of them for an update
# A forward pass: the loss, or the tokens that were moved, with its graph. An update, which returns nothing.
Step = Callable[[], Any]

# Allowed error: this many times that of plain PyTorch in the dtype. At least so many roundings, of the dtype where the
# value is one number (eager may get it right by luck) and of float32, in which sums are kept, where it is a matrix.
TIMES_EAGER = 4.0
ROUNDINGS = 8.0
# The worst of thousands of rows: ours came to 0.8 of what a norm may, one that is left out is off by about 1.
TIMES_ROW = 4.0

_ROW = "a row of "
_MOST_EXACT = 1 << 28  # pairs
_EXACT_BLOCK, _EAGER_BLOCK = 1 << 23, 1 << 26  # pairs in memory at once


@dataclass(frozen=True)
class Gate:
    """Relative errors of loss and gradients, or of an update, by name, with those of eager and what is allowed."""

    errors: dict[str, float]
    eager: dict[str, float]
    allowed: dict[str, float]

    @property
    def complaint(self) -> str | None:
        for name, error in self.errors.items():
            if not error <= self.allowed[name]:  # NaN fails too
                what = name if name.removeprefix(_ROW) in ("loss", "update") else f"gradient of {name}"
                return f"the {what} is off by {error:.1e}, allowed is {self.allowed[name]:.1e}"
        return None


@dataclass(frozen=True)
class Truth:
    """What every provider is held against on one workload's tensors; without eager's errors if that is float32."""

    values: dict[str, Tensor]
    eager_errors: dict[str, float]
    dtype: torch.dtype

    @classmethod
    def of(cls, workload: Workload, inputs: Inputs) -> Truth:
        if workload.family == "ema":
            return _UpdateTruth.before(inputs)
        rows = (x.dtype for x in inputs.values() if x.dim() and x.is_floating_point())
        dtype = max(rows, key=lambda d: torch.finfo(d).eps)
        if workload.pairs > _MOST_EXACT:
            return cls(_in_blocks(workload, inputs, torch.float32, _EXACT_BLOCK), {}, dtype)
        values = _in_blocks(workload, inputs, torch.float64, _EXACT_BLOCK)
        eager = _in_blocks(workload, inputs, dtype, _EAGER_BLOCK)
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
    """`values` are the targets before the update, by their place: float64 is taken of one at a time."""

    @classmethod
    def before(cls, inputs: Inputs) -> Truth:
        start = {str(place): target.clone() for place, target in enumerate(inputs["targets"])}
        rounded = (MOMENTUM * t + (1 - MOMENTUM) * s.float() for t, s in _pairs(start, inputs))
        return cls(start, {"update": _update_error(rounded, start, inputs)}, torch.float32)

    def gate(self, step: Step, inputs: Inputs) -> Gate:
        targets = inputs["targets"]
        for target, (start, _) in zip(targets, _pairs(self.values, inputs), strict=True):
            target.copy_(start)
        step()
        errors = {"update": _update_error(targets, self.values, inputs)}
        least = ROUNDINGS * torch.finfo(self.dtype).eps
        return Gate(errors, self.eager_errors, {"update": max(TIMES_EAGER * self.eager_errors["update"], least)})


def _pairs(start: Mapping[str, Tensor], inputs: Inputs) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(start.values(), inputs["sources"], strict=True)


def _update_error(moved: Iterable[Tensor], start: Mapping[str, Tensor], inputs: Inputs) -> float:
    """Of the worst number of all targets, relative to the larger of target and source: one forgotten shows."""
    worst = 0.0
    for found, (t, s) in zip(moved, _pairs(start, inputs), strict=True):
        t, s = t.double(), s.double()
        error = (found.double() - (MOMENTUM * t + (1 - MOMENTUM) * s)).abs_().div_(torch.maximum(t.abs(), s.abs()))
        worst = max(float(error.max()), worst)  # in this order NaN stays
    return worst


def copied(inputs: Inputs) -> dict[str, Tensor]:
    """The tensors as they are, but for the lists of an update, which is there to change them."""
    return {name: x.detach().clone() for name, x in inputs.items() if isinstance(x, Tensor)}


@torch.no_grad()
def restored(inputs: Inputs, before: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that is no more as it was `copied`; all are again."""
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
    """Gradients of a loss; of a result that is none, those that a random gradient gives; none for an update."""
    if not wanted:
        return ()
    coming = _coming(result.shape, result.dtype, result.device) if result.dim() else None
    return torch.autograd.grad(result, wanted, coming)


@cache
def _coming(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device, dtype)


def _errors(values: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Of the norm, and of the worst row by the rows' root mean square: one of thousands hardly shows in the norm."""
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
    """Of a truth that is zero, as the loss of a single row, nothing may be left."""
    return error / size if size else 0.0 if error == 0 else math.inf


def _in_blocks(workload: Workload, inputs: Mapping[str, Tensor], dtype: torch.dtype, block: int) -> dict[str, Tensor]:
    """Loss and gradients by the textbook in ``dtype``, a block of rows of logits or of columns at a time."""
    x = {}
    for name, value in inputs.items():  # a learnable scale stays in float32 beside bfloat16 rows
        if not value.is_floating_point():
            x[name] = value
            continue
        kept = value.dtype if value.dim() == 0 and dtype != torch.float64 else dtype
        x[name] = value.detach().to(kept).requires_grad_(value.requires_grad)
    if workload.op == "nt_xent":
        anchors = F.normalize(torch.cat([x["z0"], x["z1"]]), dim=1)
        own = torch.arange(len(anchors), device=anchors.device)
        loss = _cross_entropy(anchors, anchors, 1 / TEMPERATURE, own.roll(len(own) // 2), own, block)
    elif workload.op == "info_nce":
        query, key = F.normalize(x["query"], dim=1), F.normalize(x["key"], dim=1)
        positive = (query * key).sum(1, keepdim=True) / TEMPERATURE
        logits = torch.cat([positive, query @ x["negatives"].T / TEMPERATURE], 1)
        loss = F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64, device=query.device))
    elif workload.op == "clip_loss":
        image, text, scale = x["image"], x["text"], x["logit_scale"]
        own = torch.arange(len(image), device=image.device)
        there = _cross_entropy(image, text, scale, own, None, block)
        loss = (there + _cross_entropy(text, image, scale, own, None, block)) / 2
    elif workload.op == "barlow_twins":
        a, b = (F.batch_norm(x[view], None, None, training=True) for view in ("z0", "z1"))
        diagonal, off = _correlation(a, b, len(a), block)
        loss = (1 - diagonal).square().sum() + LAMBD * off
    elif workload.op == "vicreg":
        terms = [25 * F.mse_loss(x["z0"], x["z1"])]
        for z in (x["z0"] - x["z0"].mean(0), x["z1"] - x["z1"].mean(0)):
            variances, off = _correlation(z, z, len(z) - 1, block)
            terms += [12.5 * F.relu(1 - (variances + 1e-4).sqrt()).mean(), off / z.shape[1]]
        loss = sum(terms, z.new_zeros(()))
    elif workload.op == "byol_loss":
        loss = (F.normalize(x["prediction"], dim=1) - F.normalize(x["target"], dim=1)).square().sum(1).mean()
    elif workload.op == SIGMOID:
        loss = _sigmoid(x["image"], x["text"], x["logit_scale"], block)
    elif workload.family == "tokens":
        loss = _tokens(workload, x)
    else:
        loss = _cross_entropy(x["x"], x["y"], 1.0, None, None, block)
    wanted = differentiable(x)
    gradients = slopes(loss, list(wanted.values()))
    return {"loss": loss.detach(), **dict(zip(wanted, gradients, strict=True))}


def _tokens(workload: Workload, x: Mapping[str, Tensor]) -> Tensor:
    """By advanced indexing, which shares nothing with gather."""
    if workload.op == "masked_mse":
        rows = x["mask"] > 0
        goal, found = x["target"][rows], x["pred"][rows]
        goal = (goal - goal.mean(1, keepdim=True)) / (goal.var(1, keepdim=True) + 1e-6).sqrt()
        return F.mse_loss(found, goal)
    if workload.op == "restore_tokens":
        visible, restore = x["visible"], x["ids_restore"]
        tokens = torch.cat([visible, x["mask_token"].to(visible).expand(len(visible), 1, -1)], 1)
        samples = torch.arange(len(visible), device=visible.device)[:, None]
        return tokens[samples, restore.clamp_max(visible.shape[1])] + x["pos"]
    index = x["index"][None] if workload.op == "gather_tokens" else x["masks"]
    samples = torch.arange(index.shape[1], device=index.device)[None, :, None]
    return x["x"][samples, index].flatten(0, 1)


def _correlation(a: Tensor, b: Tensor, divisor: int, block: int) -> tuple[Tensor, Tensor]:
    """The diagonal of a^T b / divisor, and the sum of squares off it."""

    def of_columns(a: Tensor, b: Tensor, start: int) -> tuple[Tensor, Tensor]:
        c = a.T @ b / divisor
        own = torch.arange(b.shape[1], device=c.device)
        diagonal = c[own + start, own]
        return diagonal, c.index_put((own + start, own), c.new_zeros(())).square().sum()

    size = max(1, block // a.shape[1])
    parts = [checkpoint(of_columns, a, part, k * size, use_reentrant=False) for k, part in enumerate(b.split(size, 1))]
    return torch.cat([diagonal for diagonal, _ in parts]), sum((off for _, off in parts), a.new_zeros(()))


def _sigmoid(x: Tensor, y: Tensor, scale: Tensor, block: int) -> Tensor:
    """``-log sigmoid`` of the logit of every pair, with the other sign where rows do not belong together."""

    def of_rows(rows: Tensor, y: Tensor, scale: Tensor, start: int) -> Tensor:
        logits = (scale * rows) @ y.T + SIGMOID_BIAS
        own = torch.arange(len(rows), device=rows.device)
        return F.softplus(logits).sum() - logits[own, own + start].sum()

    size = max(1, block // len(y))
    parts = [checkpoint(of_rows, part, y, scale, k * size, use_reentrant=False) for k, part in enumerate(x.split(size))]
    return sum(parts, x.new_zeros(())) / len(x)


def _cross_entropy(
    x: Tensor, y: Tensor, scale: float | Tensor, target: Tensor | None, own: Tensor | None, block: int
) -> Tensor:
    """The mean over rows of x; without a target, of the log-sum-exp alone."""

    def of_rows(rows: Tensor, y: Tensor, scale: float | Tensor, target: Tensor | None, own: Tensor | None) -> Tensor:
        logits = (scale * rows) @ y.T
        if own is not None:
            logits = logits.scatter(1, own[:, None], -torch.inf)
        if target is None:
            return logits.logsumexp(1).sum()
        return F.cross_entropy(logits, target, reduction="sum")

    size = max(1, block // len(y))
    total = x.new_zeros(())
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        arguments = (x[part], y, scale, None if target is None else target[part], None if own is None else own[part])
        total = total + checkpoint(of_rows, *arguments, use_reentrant=False)
    return total / len(x)


@dataclass
class Timing:
    """Seconds of each kept call, forward and backward (0 for an update), and what was seen around them."""

    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    page_faults: int = 0
    discarded: int = 0
    disturbed: bool = False

    def summary(self) -> dict[str, dict[str, float]]:
        both = [f + b for f, b in zip(self.forward, self.backward, strict=True)]
        phases = {"fwd": self.forward, "bwd": self.backward, "fwd+bwd": both}
        return {phase: _quantiles(seconds) for phase, seconds in phases.items() if any(seconds)}


@dataclass
class _Slice:
    forward: list[float]
    backward: list[float]
    page_faults: int
    disturbed: bool

    @property
    def spent(self) -> float:
        return sum(self.forward) + sum(self.backward)


ROUNDS = 8
LEAST = 5
MOST_CALLS = 400  # per slice
# Share of a slice that threads may wait for a processor before it counts as disturbed.
WAITING = 0.05


def interleaved(
    timed: Mapping[str, tuple[Step, Inputs]], seconds: float, watch: Callable[[str], None] | None = None
) -> dict[str, Timing]:
    """Time every step in turn, for about ``seconds`` and `LEAST` calls each, with the gradients its inputs require.

    A slow step ends at three calls and three times the seconds; a disturbed one at twice of either.
    """
    slices: dict[str, list[_Slice]] = {name: [] for name in timed}
    waiting = list(timed)
    while waiting:
        for name in list(waiting):
            if watch is not None:
                watch(name)
            taken = slices[name]
            step, inputs = timed[name]
            taken.append(_slice(step, list(differentiable(inputs).values()), device_of(inputs), seconds / ROUNDS))
            clean = [s for s in taken if not s.disturbed]
            if _enough(clean, seconds, 1) or _enough(taken, seconds, 2) or len(taken) >= 3 * ROUNDS:
                waiting.remove(name)
    return {name: _kept(taken) for name, taken in slices.items()}


def _enough(taken: list[_Slice], seconds: float, times: int) -> bool:
    spent, calls = sum(s.spent for s in taken), sum(len(s.forward) for s in taken)
    usual = spent >= times * seconds and calls >= times * LEAST
    return usual or (spent >= 3 * times * seconds and calls >= 3 * times)


def _slice(step: Step, wanted: list[Tensor], device: torch.device, seconds: float) -> _Slice:
    once = _once_cuda if device.type == "cuda" else _once
    faults, waited, start = _page_faults(), waited_seconds(), time.perf_counter()
    forward, backward = [], []
    while True:
        f, b = once(step, wanted)
        forward.append(f)
        backward.append(b)
        wall = time.perf_counter() - start
        if wall >= seconds or len(forward) >= MOST_CALLS:
            break
    disturbed = waited_seconds() - waited > WAITING * wall
    return _Slice(forward, backward, (_page_faults() - faults) // len(forward), disturbed)


def _kept(taken: list[_Slice]) -> Timing:
    """The clean slices; where there are too few, all of them, and said so."""
    clean = [s for s in taken if not s.disturbed]
    disturbed = sum(len(s.forward) for s in clean) < 3 and len(clean) < len(taken)
    kept = taken if disturbed else clean
    timing = Timing(disturbed=disturbed, discarded=sum(len(s.forward) for s in taken if s not in kept))
    for s in kept:
        timing.forward += s.forward
        timing.backward += s.backward
    timing.page_faults = sorted(s.page_faults for s in kept)[len(kept) // 2]
    return timing


def _once(step: Step, wanted: list[Tensor]) -> tuple[float, float]:
    start = time.perf_counter()
    result = step()
    middle = time.perf_counter()
    slopes(result, wanted)
    return middle - start, time.perf_counter() - middle if wanted else 0.0


def _once_cuda(step: Step, wanted: list[Tensor]) -> tuple[float, float]:
    start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    start.record()
    result = step()
    middle.record()
    slopes(result, wanted)
    end.record()
    end.synchronize()
    return start.elapsed_time(middle) / 1e3, middle.elapsed_time(end) / 1e3 if wanted else 0.0


def waited_seconds() -> float:
    """Time that this process's threads were ready to run and had no processor; 0 where the system does not tell."""
    total = 0
    for path in glob.glob("/proc/self/task/*/schedstat"):
        try:
            total += int(Path(path).read_text().split()[1])
        except (OSError, IndexError, ValueError):  # a thread that ended meanwhile
            continue
    return total / 1e9


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    values = torch.tensor(seconds, dtype=torch.float64)
    p20, median, p80 = values.quantile(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()
    return {"median": median, "p20": p20, "p80": p80}


def step_memory(step: Step, inputs: Inputs) -> int | None:
    """`peak_memory` of one forward and backward, loss and gradients included."""
    wanted = list(differentiable(inputs).values())
    return peak_memory(lambda: slopes(step(), wanted), device_of(inputs))


@dataclass(frozen=True)
class Floor:
    """No implementation of this cost is faster, exponentials apart."""

    seconds: float
    bound: str


def floor(cost: Cost, peak: float, bandwidth: float) -> Floor:
    """The larger of operations / peak and bytes / bandwidth, both per second."""
    by_operations, by_bytes = cost.operations / peak, cost.bytes / bandwidth
    return Floor(max(by_operations, by_bytes), "operations" if by_operations >= by_bytes else "bytes")


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of a large matrix product; a 16-bit one is never below float32's, to which it can widen."""
    rate = _matmul_rate(dtype, device)
    return max(rate, _matmul_rate(torch.float32, device)) if dtype.itemsize < 4 else rate


@cache
def _matmul_rate(dtype: torch.dtype, device: torch.device) -> float:
    rate = 0.0
    for n in (512, 8192 if device.type == "cuda" else 2048):
        if rate and 2 * n**3 / rate > 1:
            break  # a dtype that this device multiplies without haste, such as float16 on most CPUs
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        rate = max(rate, 2 * n**3 / _best(partial(torch.mm, a, b), device))
    return rate


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones((1 << 30 if device.type == "cuda" else 1 << 28) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), device)


def _best(call: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(8):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
