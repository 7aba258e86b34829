# SPDX-License-Identifier: Apache-2.0
"""How results are written, the same in tables, pictures and pages: names, places, numbers."""

from __future__ import annotations

from sslkernels.bench.architectures import network
from sslkernels.bench.records import Record
from sslkernels.bench.workloads import Workload

_TITLES = {
    "nt_xent": "NT-Xent",
    "info_nce": "queue InfoNCE",
    "clip_loss": "CLIP",
    "byol_loss": "BYOL",
    "barlow_twins": "Barlow Twins",
    "gather_tokens": "gather",
    "restore_tokens": "restore + position",
    "apply_masks": "apply masks",
    "masked_mse": "masked MSE",
    "vicreg": "VICReg",
    "ema_update": "EMA",
}


def title(op: str) -> str:
    return _TITLES.get(op, op)


def titled(record: Record) -> str:
    """Of an update also whose.

    >>> titled({"op": "nt_xent", "shape": [64, 128]}), titled({"op": "ema_update", "shape": [152, 86567656]})
    ('NT-Xent', 'EMA, ViT-B')
    """
    return f"{title(record['op'])}, {network(*record['shape'])}" if is_update(record) else title(record["op"])


def shape(record: Record) -> str:
    """
    >>> shape({"op": "nt_xent", "shape": [64, 128]})
    '64×128'
    """
    return "×".join(Workload(record["op"], tuple(record["shape"])).sizes)


def is_update(record: Record) -> bool:
    """Whether there is no backward."""
    return record["op"] == "ema_update"


def place(record: Record) -> str:
    """Device, torch and commit."""
    known = commit(record)
    return f"{machine(record)}, torch {record['versions']['torch']}{known and f', commit {known}'}"


def machine(record: Record) -> str:
    device = record["device"]
    if device["type"] != "cpu":
        return device["name"]
    return f"{device['name']}, {record['threads']} threads, {device['isa']}"


def commit(record: Record) -> str:
    """Short; empty where none is known."""
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
