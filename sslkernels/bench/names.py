# SPDX-License-Identifier: Apache-2.0
"""Names, places and numbers, written the same way in tables, pictures and pages."""

from __future__ import annotations

from sslkernels.bench.cases import CASES
from sslkernels.bench.records import Record, preloaded


def title(op: str) -> str:
    return CASES[op].title


def titled(record: Record) -> str:
    """The title of the op. An update's also says whose parameters it moves.

    >>> titled({"op": "nt_xent", "shape": [64, 128]}), titled({"op": "ema_update", "shape": [152, 86567656]})
    ('NT-Xent', 'EMA, ViT-B')
    """
    return CASES[record["op"]].titled(tuple(record["shape"]))


def shape(record: Record) -> str:
    """The sizes of a workload.

    >>> shape({"op": "nt_xent", "shape": [64, 128]})
    '64×128'
    """
    return "×".join(CASES[record["op"]].printed(tuple(record["shape"])))


def has_backward(record: Record) -> bool:
    return "bwd" in CASES[record["op"]].phases


def passes_of(record: Record) -> str:
    """Name what a time of the record is the time of.

    >>> passes_of({"op": "ema_update"})
    'update'
    """
    case = CASES[record["op"]]
    return "update" if case.update else "search" if case.search else "forward + backward"


def place(record: Record) -> str:
    """The device, torch and the commit."""
    known = commit(record)
    return f"{machine(record)}, torch {record['versions']['torch']}{known and f', commit {known}'}"


def machine(record: Record) -> str:
    device, allocator = record["device"], preloaded(record)
    if device["type"] != "cpu":
        return device["name"]
    return f"{device['name']}, {record['threads']} threads, {device['isa']}{allocator and f', {allocator} preloaded'}"


def commit(record: Record) -> str:
    """The first digits of the commit. It is empty where none is known."""
    known = record["commit"] or ""
    return f"{known[:9]}{'-dirty' if known.endswith('-dirty') else ''}"


def duration(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms" if seconds < 1 else f"{number(seconds)} s"


def size(count: float | None) -> str:
    if count is None:
        return "–"
    return f"{number(count / 2**20)} MiB" if count < 2**30 else f"{number(count / 2**30)} GiB"


def number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def short(dtype: str) -> str:
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}.get(dtype, dtype)
