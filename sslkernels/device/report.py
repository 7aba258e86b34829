# SPDX-License-Identifier: Apache-2.0
"""The report of `sslkernels explain --device sm_90`: what the kernels of an op use, and what they should take."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sslkernels import backends
from sslkernels.bench.cases.case import Draw, bytes_in_words
from sslkernels.bench.providers import has_backends
from sslkernels.bench.workloads import Workload
from sslkernels.device import compiled, launches, model
from sslkernels.device.compiled import Compiled
from sslkernels.device.launches import Launch, Recording
from sslkernels.device.targets import Target
from sslkernels.ops.work import Work

_DEVICE = torch.device("cuda", 0)
_BY = {"triton": "", "cuda": "", "aten": " (aten)", "copy": " (from host)"}


@dataclass
class Row:
    """Launches of the same code in the same phase."""

    name: str
    phase: str
    used: Compiled | None
    per_multiprocessor: int | None
    launches: list[Launch] = field(default_factory=list)
    work: list[Work | None] = field(default_factory=list)
    predictions: list[model.Prediction] = field(default_factory=list)

    @property
    def modelled(self) -> bool:
        return all(work is not None for work in self.work)

    @property
    def seconds(self) -> float:
        return sum(prediction.seconds for prediction in self.predictions)

    @property
    def floor(self) -> float:
        return sum(prediction.floor for prediction in self.predictions)

    def per_pair(self) -> list[float]:
        """The instructions of a thread for each pair of rows, of each launch that is told its pairs as n and m."""
        counts = []
        for launch, work in zip(self.launches, self.work, strict=True):
            pairs = launch.arguments.get("n", 0) * launch.arguments.get("m", 0)
            if self.used is not None and work is not None and pairs:
                counts.append(32 * model.instructions(self.used, work, launch.blocks) / pairs)
        return counts


@dataclass(frozen=True)
class Report:
    """All that is known of an op at one shape on a GPU that is not here."""

    target: Target
    rows: tuple[Row, ...]
    recording: Recording

    @property
    def seconds(self) -> float:
        """On the device; what is not modelled counts nothing."""
        return sum(row.seconds for row in self.rows)

    @property
    def floor(self) -> float:
        return sum(row.floor for row in self.rows)

    @property
    def host_seconds(self) -> float:
        return len(self.recording.launches) * self.target.host


def chosen(workload: Workload, dtype: torch.dtype, target: Target, backend: str | None) -> str:
    """Choose the backend as it would be chosen on the GPU."""
    with launches.on(target):
        return backends.choose(_DEVICE, dtype, backend, has_backends(workload))


def path(workload: Workload, dtype: torch.dtype, target: Target, backend: str) -> str:
    """Describe the path that the op would take on the GPU."""
    with launches.on(target):
        return workload.case.path(backend, workload.shape, dtype, _DEVICE)


def why_not() -> str | None:
    """Say why kernels cannot be compiled here; None if they can."""
    if not launches.HAS_TRITON:
        return "Triton is not installed; `pip install sslkernels[triton]` brings it, and needs no GPU."
    if backends._INTERPRETED:
        return "TRITON_INTERPRET is set, with which Triton compiles nothing; unset it."
    return None


def make(workload: Workload, dtype: torch.dtype, target: Target, backend: str) -> Report:
    """Record a forward and a backward, compile each kernel, and model each launch."""
    case, shape = workload.case, workload.shape
    if case.not_recorded:
        raise ValueError(case.not_recorded)

    def op(**inputs: Any) -> Tensor | None:
        return case.ours(**inputs, backend=backend)

    draw = Draw(dtype, _DEVICE, torch.Generator())
    recording = launches.record(lambda: case.inputs(shape, draw), op, target)
    rows: dict[Any, Row] = {}
    for launch in recording.launches:
        used = _used(launch, target)
        key = (launch.phase, launch.kind, launch.name, launch.build)
        if key not in rows:
            count = None if used is None else compiled.blocks_per_multiprocessor(used, target)
            rows[key] = Row(_named(launch), launch.phase, used, count)
        row, work = rows[key], model.work_of(launch)
        row.launches.append(launch)
        row.work.append(work)
        if work is not None:
            row.predictions.append(model.predict(launch, work, used, target))
    return Report(target, tuple(rows.values()), recording)


def lines(report: Report) -> Iterator[str]:
    """Yield the report's two tables and its sums, at most 80 columns wide."""
    yield from _table(
        "kernels as compiled",
        ("runs", "blocks", "regs", "spills", "shared", "per SM", "product"),
        [(row, _use(row)) for row in report.rows],
    )
    yield ""
    yield from _table(
        "modelled, not measured",
        ("operations", "bytes", "floor", "time", "bound by"),
        [(row, _time(row)) for row in report.rows],
    )
    yield ""
    count = len(report.recording.launches)
    ahead = sum(launch.phase == "forward" for launch in report.recording.launches)
    time, floor = time_in_words(report.seconds), time_in_words(report.floor)
    host, each = time_in_words(report.host_seconds), time_in_words(report.target.host)
    yield f"launches     {count}: {ahead} forward, {count - ahead} backward"
    yield f"device       {time}, modelled and not measured; the floor is {floor}"
    yield f"host         {host} at {each} for each launch, which is assumed"
    yield f"memory       {bytes_in_words(report.recording.peak_bytes)} beside the inputs at most"
    missing = ", ".join(dict.fromkeys(row.name for row in report.rows if not row.modelled))
    if missing:
        words = f"{missing}: their work is not written down, and their time is missing above"
        yield from textwrap.wrap(f"not modelled {words}", 80, subsequent_indent=" " * 13)
    if any(row.used is None and row.launches[0].kind == "cuda" for row in report.rows):
        yield "not compiled CUDA C++: this build has no image of it, and there is no nvcc"


def _used(launch: Launch, target: Target) -> Compiled | None:
    if launch.kind == "triton":
        return compiled.compiled(launch.build)
    if launch.kind == "cuda":
        return compiled.shipped(launch.arguments["family"], launch.name, launch.threads, target.architecture)
    return None


def _named(launch: Launch) -> str:
    by = " (cuBLAS)" if launch.name in model.PRODUCTS else _BY[launch.kind]
    return launch.name.removesuffix("_kernel") + by


def _use(row: Row) -> tuple[str, ...]:
    blocks = str(max(launch.blocks for launch in row.launches)) if row.launches[0].grid else ""
    if row.used is None:
        return str(len(row.launches)), blocks, "", "", "", "", ""
    used = row.used
    each = (used.registers, used.spills, used.shared, row.per_multiprocessor)
    return str(len(row.launches)), blocks, *map(str, each), used.product


def _time(row: Row) -> tuple[str, ...]:
    if not row.modelled:
        return "not modelled", "", "", "", ""
    operations = sum(work.tensor_ops + work.fp32_ops for work in row.work if work is not None)
    moved = sum(work.bytes for work in row.work if work is not None)
    bound = max(row.predictions, key=lambda prediction: prediction.seconds).bound
    times = (time_in_words(row.floor), time_in_words(row.seconds))
    return count_in_words(operations), f"{count_in_words(moved)}B", *times, bound


def _table(title: str, heads: Sequence[str], body: list[tuple[Row, tuple[str, ...]]]) -> Iterator[str]:
    widths = [max(len(head), *(len(cells[place]) for _, cells in body)) for place, head in enumerate(heads)]
    first = max(26, len(title), *(2 + len(row.name) for row, _ in body))
    yield f"{title:<{first}}  " + "  ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    phase = ""
    for row, cells in body:
        if row.phase != phase:
            phase = row.phase
            yield phase
        cut = f"  {row.name}"
        yield (f"{cut:<{first}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))).rstrip()


def count_in_words(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} " if number else "0 "


def time_in_words(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} us" if seconds >= 1e-7 else "<0.1 us"
