# SPDX-License-Identifier: Apache-2.0
"""Judge records: ratios, losses, targets met or missed, sizes from which on ours is ahead, and what grew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sslkernels.bench.cases import CASES, Target
from sslkernels.bench.names import duration, short, size
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.records import Record
from sslkernels.bench.workloads import WORKLOADS

# A workload and a dtype.
Key = tuple[str, str]
# The records of one workload and dtype, by provider.
Trial = dict[str, Record]
# Bytes. Pages and allocator blocks let memory be compared no finer.
MEMORY_GRAIN = 1 << 20
# The order in which tables have them.
PHASES = ("fwd+bwd", "fwd", "bwd")
# Kinds of targets that name the most; the others name the least.
_AT_MOST = ("seconds", "host", "bytes")
# It marks the numbers of a peer that the gate found slightly wrong.
DAGGER = "†"


def trials(records: Iterable[Record]) -> dict[Key, Trial]:
    """Group records by (workload, dtype), then by provider, in the file's order. Training runs are left out."""
    found: dict[Key, Trial] = {}
    for record in records:
        if "kind" in record:
            continue
        found.setdefault((record["workload"], record["dtype"]), {})[record["provider"]] = record
    return found


def ours(trial: Trial) -> Record | None:
    """The record of the backend that the library chooses by itself, or else of the first of ours."""
    timed = [r for name, r in trial.items() if name not in OTHERS and "seconds" in r]
    return next((r for r in timed if r["chosen"]), timed[0] if timed else None)


def median(record: Record, phase: str = "fwd+bwd") -> float:
    return record["seconds"][phase]["median"]


def ratio(trial: Trial, other: str, phase: str = "fwd+bwd") -> float | None:
    """The other's time over ours: above 1 ours is faster. None where one was not timed, or they are not of one run."""
    mine, theirs = ours(trial), trial.get(other)
    if mine is None or theirs is None or phase not in theirs.get("seconds", ()):
        return None
    if mine.get("date") != theirs.get("date"):
        return None
    return median(theirs, phase) / median(mine, phase)


def judged(key: Key, trial: Trial) -> list[tuple[Target, float | None, bool | None]]:
    """Each target with what was measured and whether it is met. Both are None where it was not measured."""
    mine = ours(trial)
    workload = next((w for w in WORKLOADS if str(w) == key[0]), None)
    if workload is None or mine is None:
        return []
    verdicts: list[tuple[Target, float | None, bool | None]] = []
    for target in workload.targets_for(key[1], mine["device"]["type"]):
        verdicts.append(judge(target, trial, mine))
    return verdicts


def judge(target: Target, trial: Trial, mine: Record) -> tuple[Target, float | None, bool | None]:
    """The target with what ``mine`` reached and whether that meets it. Both are None where it was not measured."""
    value = _value(target, trial, mine)
    if value is None:
        return target, None, None
    return target, value, value <= target.value if target.kind in _AT_MOST else value >= target.value


def _value(target: Target, trial: Trial, mine: Record) -> float | None:
    if target.kind in OTHERS:
        return ratio(trial, target.kind)
    if target.kind == "bytes":
        return mine["memory_bytes"]
    if target.kind == "host":
        return mine["host_seconds"]["median"] if mine.get("host_seconds") else None
    return median(mine) if target.kind == "seconds" else mine["floor"]["fraction"]


def disturbed(trial: Trial) -> bool:
    """True where any time was taken beside another process, or beside a control that moved.

    A ratio is no better than its worse half.
    """
    return any(record.get("disturbed") or record.get("unsettled") for record in trial.values())


def unsettled(records: Iterable[Record]) -> list[Key]:
    """The rows beside which the control moved at every attempt, so that their times are not of a quiet machine."""
    return [key for key, trial in trials(records).items() if any(record.get("unsettled") for record in trial.values())]


def mark(trial: Trial, other: str) -> str:
    """The dagger where ``other`` was timed although it is slightly wrong."""
    return DAGGER if trial.get(other, {}).get("off") else ""


def slightly_wrong(records: Iterable[Record]) -> list[tuple[Key, str, str]]:
    """Workload and dtype, the peer, and the gate's sentence, wherever a peer that is slightly wrong was timed."""
    return [
        (key, name, record["off"])
        for key, trial in trials(records).items()
        for name, record in trial.items()
        if record.get("off")
    ]


class Loss(NamedTuple):
    """A workload and dtype in which ours is slower than ``other`` in some phase, with the ratios of all phases."""

    key: Key
    other: str
    ratios: dict[str, float]


def is_loss(value: float) -> bool:
    """True where the ratio is below 1 in the two digits that are printed."""
    return round(value, 2) < 1


def losses(records: Iterable[Record]) -> list[Loss]:
    found = []
    for key, trial in trials(records).items():
        for other in OTHERS:
            ratios = {phase: value for phase in PHASES if (value := ratio(trial, other, phase)) is not None}
            if any(map(is_loss, ratios.values())):
                found.append(Loss(key, other, ratios))
    return found


def missed(records: Iterable[Record]) -> list[tuple[Key, Target, float]]:
    """The targets that were measured and not met, with what was measured."""
    return [
        (key, target, value)
        for key, trial in trials(records).items()
        for target, value, met in judged(key, trial)
        if met is False and value is not None
    ]


@dataclass
class Sweep:
    """An op in one dtype over the one dimension that varies. ``fixed`` names the others; sizes ascend."""

    dimension: str
    fixed: str
    trials: dict[int, Trial]


def sweeps(records: Iterable[Record]) -> dict[Key, Sweep]:
    """Sweeps by (op, dtype). Where there is one size alone, the first dimension counts as the one that varies."""
    groups: dict[Key, list[Trial]] = {}
    for (_, dtype), trial in trials(records).items():
        groups.setdefault((next(iter(trial.values()))["op"], dtype), []).append(trial)
    found = {}
    for (op, dtype), group in groups.items():
        shapes = [next(iter(trial.values()))["shape"] for trial in group]
        varies = next((i for i, values in enumerate(zip(*shapes, strict=True)) if len(set(values)) > 1), 0)
        names = CASES[op].dimensions
        fixed = ", ".join(f"{n} = {x}" for i, (n, x) in enumerate(zip(names, shapes[0], strict=True)) if i != varies)
        by_size = {shape[varies]: trial for shape, trial in zip(shapes, group, strict=True)}
        found[op, dtype] = Sweep(names[varies], fixed, dict(sorted(by_size.items())))
    return found


def ahead_from(sweep: Sweep, other: str) -> int | None:
    """The smallest size from which on ours is never slower than ``other``. None where ours is slower at the largest.

    Sizes at which either was not measured do not count.
    """
    first = None
    for at, trial in sweep.trials.items():
        value = ratio(trial, other)
        if value is not None:
            first = None if is_loss(value) else at if first is None else first
    return first


def skips(records: Sequence[Record]) -> list[str]:
    """Say who was skipped and why, and where, unless it was everywhere."""
    skipped: dict[str, list[str]] = {}
    for record in records:
        if record["status"] == "skipped":
            skipped.setdefault(f"{record['provider']}: {record['why']}", []).append(record["workload"])
    lines = []
    for why, where in skipped.items():
        everywhere = len(where) == sum(r["provider"] == why.split(":")[0] for r in records)
        lines.append(why + ("" if everywhere else f" ({', '.join(dict.fromkeys(where))})"))
    return lines


def regressions(before: Sequence[Record], after: Sequence[Record], percent: float) -> list[str]:
    """Write a sentence for every result of ours that fails now, is not there now, or grew by more than ``percent``."""
    old, new, most = trials(before), trials(after), 1 + percent / 100
    found = []
    for key, provider in ((k, p) for k in old for p in old[k] if p not in OTHERS):
        a, b = old[key][provider], new.get(key, {}).get(provider)
        if "seconds" not in a:
            continue
        what = f"{key[0]} {short(key[1])} {provider}"
        if b is None:
            found.append(f"{what} is in A and not in B.")
            continue
        if "seconds" not in b:
            found.append(f"{what} {'is skipped' if b['status'] == 'skipped' else 'fails'}: {b['why']}")
            continue
        if median(b) > most * median(a):
            found.append(f"{what} takes {duration(median(b))} where it took {duration(median(a))}.")
        had, has = a.get("memory_bytes"), b.get("memory_bytes")
        if had is not None and has is not None and has > most * had + MEMORY_GRAIN:
            found.append(f"{what} takes {size(has)} above its inputs where it took {size(had)}.")
    return found


def describe(target: Target, dtype: str | None = None) -> str:
    if target.kind in OTHERS:
        wanted = f"≥ {target.value:g}x {target.kind}"
    elif target.kind == "floor":
        wanted = f"≥ {target.value:.0%} of the floor's speed"
    else:
        wanted = f"≤ {measured(target, target.value)}{' as the host sees it' if target.kind == 'host' else ''}"
    return wanted if dtype is None else f"{short(dtype)} {wanted}"


def measured(target: Target, value: float) -> str:
    """Write the value as its target is written."""
    if target.kind in OTHERS:
        return f"{value:.2f}x"
    return {"floor": "{:.0%}".format, "seconds": duration, "host": duration, "bytes": size}[target.kind](value)
