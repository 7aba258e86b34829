# SPDX-License-Identifier: Apache-2.0
"""Result files: how records are written, read, and merged from several files.

A file may be someone else's. Names in a record become parts of file names, tables and pages: they are short, of a few
letters, and agree with each other. Texts are printable, numbers are of a size that can be drawn.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sslkernels.arguments import LARGEST_WHOLE
from sslkernels.bench.cases import CASES
from sslkernels.bench.workloads import Workload
from sslkernels.files import cause_of, open_regular, write_atomically

FORMAT = 1
# Our files have a few hundred records, of some hundred bytes to some kilobytes each.
MOST_BYTES, MOST_RECORDS = 64 << 20, 10_000
# Records. Ours have up to 200 of a family; matplotlib draws no picture of more than 65,536 pixels.
MOST_IN_A_PICTURE = 600
CONTROL = "control"
# The allocator of host memory where no other is preloaded.
GLIBC = "glibc"
COSTS = (
    "images_per_second",
    "loss_milliseconds",
    "loss_share",
    "update_milliseconds",
    "update_share",
    "peak_memory_bytes",
)
Record = dict[str, Any]
Check = Callable[[Any], bool]


def write(records: Iterable[Record], path: Path) -> None:
    """Write JSON lines. The file is whole or not there."""
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))


def read(path: Path) -> list[Record]:
    """Read the records of a file. A last line without its end, which a killed process leaves, is not one of them.

    Raises:
        ValueError: the file cannot be read, or has a line that is no record. The sentence says which.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
            lines = _whole_lines(content.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read: it is not text; pass a file written by `bench run`.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {cause_of(error)}.") from error
    if len(content) > MOST_BYTES or len(lines) > MOST_RECORDS:
        raise ValueError(f"{path} is larger than {MOST_BYTES >> 20} MiB or {MOST_RECORDS} records; pass a part of it.")
    records = [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if not records:
        raise ValueError(f"{path} holds no record; pass a file written by `bench run`.")
    return records


def _whole_lines(text: str) -> list[str]:
    """The lines, without a last one that was torn. A single line counts as whole, whatever it is."""
    lines = text.splitlines()
    if len(lines) > 1 and not text.endswith("\n") and not _is_json(lines[-1]):
        lines.pop()
    return lines


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON; pass a file written by `bench run`.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{where} is not a benchmark record of format {FORMAT}.")
    wrong = fault(record)
    if wrong is not None:
        raise ValueError(f"{where} is incomplete or damaged in {wrong!r}; pass a file written by `bench run`.")
    return record


@dataclass(frozen=True)
class Results:
    """The records of several files together.

    families: records by the name of their pictures. It is the family, with an allocator that was preloaded or with
        tf32, and from its second device on it has the device's name as well.
    crossover: the records of the sweep over sizes, by the same names.
    trainings: the records of `bench train`.
    """

    families: dict[str, list[Record]] = field(default_factory=dict)
    crossover: dict[str, list[Record]] = field(default_factory=dict)
    trainings: list[Record] = field(default_factory=list)

    @property
    def all(self) -> list[Record]:
        groups = (*self.families.values(), *self.crossover.values(), self.trainings)
        return [record for group in groups for record in group]


def training_of(record: Record) -> tuple[str, str, str]:
    """Tell the method, the preset and the other side of a record of `bench train`; older ones lack the last two."""
    return record["method"], record.get("preset") or "small", record.get("against") or "reference"


def load(paths: Iterable[Path]) -> Results:
    """Merge files. Of records of the same workload, dtype and provider on the same device the latest stands.

    Where another allocator was preloaded, its records stand apart.
    """
    latest: dict[tuple[object, ...], Record] = {}
    for path in paths:
        for record in read(path):
            device = record["device"]["type"], record["device"]["name"]
            what = ("kind", "workload", "dtype", "provider", "backend")
            sort = training_of(record) if record.get("kind") == "train" else (record.get("preset"),)
            key = (*device, variant(record), *sort, *(record.get(name) for name in what))
            if key not in latest or latest[key]["date"] <= record["date"]:
                latest[key] = record
    results = Results()
    names: dict[tuple[object, ...], str] = {}
    # a CPU's records without another allocator get the plain name, in whatever order the files came
    for record in sorted(latest.values(), key=lambda record: (record["device"]["type"] != "cpu", variant(record))):
        if record.get("kind") == "train":
            results.trainings.append(record)
            continue
        swept = record.get("preset") == "crossover"
        groups = results.crossover if swept else results.families
        key = (swept, record["family"], record["device"]["type"], record["device"]["name"], variant(record))
        if key not in names:
            names[key] = _free_name(record, groups)
        groups.setdefault(names[key], []).append(record)
    largest = max(map(len, (*results.families.values(), *results.crossover.values(), results.trainings)), default=0)
    if largest > MOST_IN_A_PICTURE:
        raise ValueError(f"the files hold {largest} records of one kind; a picture shows {MOST_IN_A_PICTURE} at most.")
    return results


def _free_name(record: Record, taken: Collection[str]) -> str:
    """The family's name, with its `variant`.

    From its second device on the device's name or a number follows, in letters of file names.
    """
    family = "-".join(filter(None, (record["family"], variant(record))))
    if family not in taken:
        return family
    slug = re.sub(r"[^a-z0-9]+", "-", record["device"]["name"].lower()).strip("-")[:60] or "device"
    name, number = f"{family}-{slug}", 1
    while name in taken:
        number += 1
        name = f"{family}-{slug}-{number}"
    return name


def preloaded(record: Record) -> str:
    """The allocator that took the place of glibc's. It is empty where none did, as in records that do not say."""
    allocator = record.get("allocator") or GLIBC
    return "" if allocator == GLIBC else str(allocator)


def rounded(record: Record) -> str:
    """ "tf32" where float32 products of a CUDA device were rounded to it, and empty elsewhere."""
    precision = record.get("precision") or {}
    return "tf32" if record["device"]["type"] == "cuda" and precision.get("cuda_matmul") == "tf32" else ""


def variant(record: Record) -> str:
    """Say how records differ from others of the same device: by the allocator, or by rounded products."""
    return "-".join(filter(None, (preloaded(record), rounded(record))))


def digest(records: Sequence[Record]) -> str:
    """The sha256 of the file that holds these records and no others."""
    return hashlib.sha256("".join(json.dumps(record) + "\n" for record in records).encode()).hexdigest()


def fault(record: Record) -> str | None:
    """The first field that is not there or cannot be used. None where the record is whole."""
    return next(_faults(record), None)


def _faults(record: Record) -> Iterator[str]:
    """Yield every such field. Each check may rely on those before it."""
    yield from _unfit(record, _SHARED)
    yield from _unfit(record.get("versions"), {"torch": _text(100)})
    yield from _unfit(record.get("device"), {"type": _name, "name": _text(200), "isa": _text(100)})
    if "kind" not in record:
        yield from _faults_of_benchmark(record)
    elif record["kind"] == "train":
        yield from _faults_of_training(record)
    else:
        yield "kind"


def _faults_of_benchmark(record: Record) -> Iterator[str]:
    yield from _unfit(record, _BENCHMARK)
    if len(record["shape"]) != len(CASES[record["op"]].dimensions):
        yield "shape"
    workload = Workload(record["op"], tuple(record["shape"]))
    for name, value in (("family", workload.family), ("workload", str(workload))):
        if record[name] != value:
            yield name
    if ("seconds" in record) != (record["status"] == "ok"):
        yield "seconds"
    if "seconds" not in record:
        return
    yield from _unfit(record, {"seconds": _dict, "floor": _dict, "memory_bytes": _optional(_number(0, 2**60))})
    for phase in workload.case.phases:
        yield from _unfit(record["seconds"].get(phase), dict.fromkeys(("median", "p20", "p80"), _number(1e-9, 1e9)))
    for column in ("host_seconds", "graph_seconds"):
        if record.get(column) is not None:
            yield from _unfit(record[column], dict.fromkeys(("median", "p20", "p80"), _number(1e-9, 1e9)))
    yield from _unfit(record["floor"], {"fraction": _number(1e-9, 1e9), "bound": _name})


def _faults_of_training(record: Record) -> Iterator[str]:
    yield from _unfit(record, _TRAINING)
    if len(record["losses"]) != record["steps"] or not all(map(_drawable, record["losses"])):
        yield "losses"
    if record["backend"] != CONTROL:
        yield from _unfit(record, _COSTS)


def _unfit(record: Any, checks: dict[str, Check]) -> Iterator[str]:
    if not isinstance(record, dict):
        record = {}
    return (name for name, check in checks.items() if not check(record.get(name, _ABSENT)))


# Checks of one field

_ABSENT = object()


def _text(most: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) <= most and value.isprintable()


def _name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", value) is not None


def _number(least: float, most: float) -> Check:
    return lambda value: type(value) in (int, float) and least <= value <= most


def _whole(most: int) -> Check:
    return lambda value: type(value) is int and 0 <= value <= most


def _drawable(value: Any) -> bool:
    """True for a loss. That of a run which went astray is not finite, and is drawn as a gap."""
    return type(value) is float and (not math.isfinite(value) or abs(value) <= 1e30)


def _distance(value: Any) -> bool:
    return type(value) is float and not value < 0


def _flag(value: Any) -> bool:
    return type(value) is bool


def _dict(value: Any) -> bool:
    return isinstance(value, dict)


def _optional(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _absent_or(check: Check) -> Check:
    return lambda value: value is _ABSENT or value is None or check(value)


def _one_of(*accepted: str) -> Check:
    return lambda value: isinstance(value, str) and value in accepted


def _matching(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 < size <= LARGEST_WHOLE for size in value)


_SHARED: dict[str, Check] = {
    "date": _matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "commit": _optional(_matching(r"[0-9a-f]{7,64}(-dirty)?")),
    "versions": _dict,
    "device": _dict,
    "threads": _whole(1 << 20),
    "allocator": _absent_or(_name),
    "precision": _absent_or(_dict),
}
_BENCHMARK: dict[str, Check] = {
    "family": _name,
    "workload": _text(200),
    "op": lambda value: isinstance(value, str) and value in CASES,
    "shape": _shape,
    "dtype": _one_of("float32", "bfloat16", "float16", "float64"),
    "provider": _name,
    "chosen": _flag,
    "status": _one_of("ok", "skipped", "failed"),
    "why": _optional(_text(2000)),
    "note": _absent_or(_text(2000)),
    "off": _absent_or(_text(500)),
    "control": _absent_or(_dict),
    "unsettled": _absent_or(_flag),
    "megahertz": _absent_or(_number(0, 1e6)),
    "runnable": _absent_or(_whole(1 << 31)),
    "workspace_bytes": _absent_or(_whole(1 << 60)),
    "preset": _absent_or(_name),
    "disturbed": _absent_or(_flag),
    "discarded": _absent_or(_whole(1 << 60)),
    "host_seconds": _absent_or(_dict),
    "graph_seconds": _absent_or(_dict),
    "no_graph": _absent_or(_text(2000)),
    "calls": _absent_or(_whole(1 << 20)),
    "starved": _absent_or(_flag),
    "clocks": _absent_or(_dict),
    "kernels": _absent_or(_dict),
}
_TRAINING: dict[str, Check] = {
    "method": _name,
    "data": _text(5000),
    "batch_size": _whole(LARGEST_WHOLE),
    "steps": _whole(LARGEST_WHOLE),
    "seed": _whole(1 << 64),
    "backend": _name,
    "preset": _absent_or(_name),
    "against": _absent_or(_name),
    "losses": lambda value: isinstance(value, list) and len(value) > 0,
    "first_loss_deviation": _distance,
    "first_gradient_deviation": _distance,
    "deviation": _distance,
    "control_deviation": _distance,
    "allowed_deviation": _distance,
    "agrees": _flag,
}
_COSTS: dict[str, Check] = {
    name: (_number(1e-9, 1e15) if name in ("images_per_second", "loss_milliseconds") else _optional(_number(0, 2**60)))
    for name in COSTS
}
