# SPDX-License-Identifier: Apache-2.0
"""Tables in which losses stand as plainly as wins, and the comparison of two files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sslkernels.bench.cases import Target
from sslkernels.bench.judge import (
    DAGGER,
    describe,
    disturbed,
    is_loss,
    judged,
    losses,
    mark,
    measured,
    median,
    missed,
    ours,
    ratio,
    skips,
    slightly_wrong,
    trials,
    unsettled,
)  # fmt: skip
from sslkernels.bench.names import duration, has_backward, number, passes_of, place, short, size
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.records import Record

if TYPE_CHECKING:
    from rich.console import Console


def print_run(records: Sequence[Record], console: Console) -> None:
    """Print what was measured, what lost, which targets were missed, and what was skipped or failed."""
    from rich.markup import escape
    from rich.table import Table

    found = trials(records)
    first = records[0]
    table = Table(
        title=f"{', '.join(dict.fromkeys(r['family'] for r in records))}, {passes_of(first)}: {escape(place(first))}",
        caption="ratio = other ÷ ours: above 1 ours is faster · memory: peak above the inputs · floor: see --help",
    )
    table.add_column("workload", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    others = [other for other in OTHERS if any("seconds" in trial.get(other, ()) for trial in found.values())]
    passes = ("fwd",) if has_backward(first) else ()
    # Records of a GPU have two times more: as the host sees it, and replayed as a graph.
    on_device = ("host", "graph") if any("host_seconds" in r for r in records) else ()
    for name in ("ours", *passes, "p20…p80", *on_device, *others, "memory", "eager's", "of floor"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("target")
    for key, trial in found.items():
        mine = ours(trial)
        if mine is None:
            why = next((f"{r['status']}" for n, r in trial.items() if n not in OTHERS), "not run")
            times = [_time(r) for r in (trial.get(n) for n in others)]
            table.add_row(key[0], short(key[1]), why, *("" for _ in (*passes, *on_device)), "", *times, "", "", "", "")
            continue
        spread = mine["seconds"]["fwd+bwd"]
        table.add_row(
            key[0],
            short(key[1]),
            ("~" if disturbed(trial) else "") + duration(median(mine)),
            *(duration(median(mine, phase)) for phase in passes),
            f"{number(spread['p20'] * 1e3)}…{number(spread['p80'] * 1e3)}",
            *(_column(mine.get(f"{column}_seconds")) for column in on_device),
            *(_ratio(ratio(trial, other)) + mark(trial, other) for other in others),
            size(mine["memory_bytes"]),
            size(trial["eager"].get("memory_bytes")) if "eager" in trial else "",
            f"{mine['floor']['fraction']:.0%}",
            "\n".join(_verdict(*verdict) for verdict in judged(key, trial)),
        )
    console.print(table)
    for sentence in remarks(records):
        console.print(sentence, highlight=False, soft_wrap=True)


def remarks(records: Sequence[Record]) -> list[str]:
    """Write a line for each loss, missed target, failure, skip and disturbed measurement."""
    from rich.markup import escape

    lines = []
    for (workload, dtype), other, ratios in losses(records):
        phase = next(phase for phase, value in ratios.items() if is_loss(value))
        at = "update" if "bwd" not in ratios else phase
        lines.append(f"[red]slower[/]: {workload} {short(dtype)} {at} {ratios[phase]:.2f}x of {other}")
    for (workload, dtype), target, value in missed(records):
        lines.append(f"[red]target missed[/]: {workload} {short(dtype)} {_verdict(target, value, False)}")
    for record in records:
        if record["status"] == "failed":
            lines.append(f"[red]failed[/]: {record['workload']} {short(record['dtype'])}: {escape(record['why'])}")
    for (workload, dtype), name, sentence in slightly_wrong(records):
        lines.append(f"[yellow]{DAGGER} slightly wrong[/]: {workload} {short(dtype)} {name}: {escape(sentence)}")
    lines += [f"[dim]skipped[/]: {escape(line)}" for line in skips(records)]
    beside = [r for r in records if r.get("disturbed")]
    discarded = sum(r.get("discarded", 0) for r in records)
    if discarded or beside:
        note = f"{discarded} samples were discarded because another process had the processor"
        if beside:
            note += f"; {len(beside)} measurements, in rows marked ~, never had it to themselves: run again in quiet"
        lines.append(f"[yellow]disturbed[/]: {note}.")
    moved = [f"{workload} {short(dtype)}" for workload, dtype in unsettled(records)]
    if moved:
        lines.append(
            f"[yellow]unsettled[/]: the control moved beside {', '.join(moved)}; publish.py takes no such row."
        )
    starved = [f"{r['workload']} {short(r['dtype'])} {r['provider']}" for r in records if r.get("starved")]
    if starved:
        lines.append(f"[yellow]starved[/]: the device waited for the host in {', '.join(starved)}.")
    for record in (r for r in records if r.get("no_graph")):
        where = f"{record['workload']} {short(record['dtype'])} {record['provider']}"
        lines.append(f"[dim]no graph[/]: {where}: {escape(record['no_graph'])}")
    notes = dict.fromkeys(record["note"] for record in records if "seconds" in record and record.get("note"))
    lines += [f"[dim]note[/]: {escape(note)}" for note in notes]
    for dtype in dict.fromkeys(r["dtype"] for r in records):
        floor = next((r["floor"] for r in records if r["dtype"] == dtype and "floor" in r), None)
        if floor:
            lines.append(
                f"[dim]floor[/]: {short(dtype)} {floor['peak_operations_per_second'] / 1e9:.0f} GFLOP/s "
                f"({floor['peak_source']}), copy {floor['copy_bytes_per_second'] / 1e9:.1f} GB/s; "
                "exponentials are not in it."
            )
    return lines


def print_comparison(before: Sequence[Record], after: Sequence[Record], console: Console) -> None:
    """Print the times of both files, their ratio, and memory."""
    from rich.markup import escape
    from rich.table import Table

    old, new = trials(before), trials(after)
    table = Table(
        title=f"{passes_of(before[0])}, A against B",
        caption=f"A: {escape(place(before[0]))}\nB: {escape(place(after[0]))}\nB ÷ A: below 1 B is faster; "
        "the others show how far the machine itself moved",
    )
    for name in ("workload", "dtype", "provider"):
        table.add_column(name, no_wrap=True)
    for name in ("A", "B", "B ÷ A", "memory A", "memory B"):
        table.add_column(name, justify="right", no_wrap=True)
    rows = 0
    for key in (k for k in old if k in new):
        for provider in (p for p in old[key] if p in new[key]):
            a, b = old[key][provider], new[key][provider]
            if "seconds" not in a or "seconds" not in b:
                continue
            rows += 1
            moved = median(b) / median(a)
            colour = "red" if moved > 1.05 else "green" if moved < 0.95 else "default"
            table.add_row(
                key[0],
                short(key[1]),
                provider,
                duration(median(a)) + mark(old[key], provider),
                duration(median(b)) + mark(new[key], provider),
                f"[{colour}]{moved:.2f}[/]",
                size(a.get("memory_bytes")),
                size(b.get("memory_bytes")),
            )
    if not rows:
        raise ValueError("the two files share no timed workload, dtype and provider; nothing can be compared.")
    console.print(table)
    for name, records in (("A", before), ("B", after)):
        for (workload, dtype), provider, sentence in slightly_wrong(records):
            told = f"{DAGGER} slightly wrong in {name}: {workload} {short(dtype)} {provider}: {sentence}"
            console.print(escape(told), highlight=False, soft_wrap=True)


def _verdict(target: Target, value: float | None, met: bool | None) -> str:
    wanted = describe(target)
    if value is None:
        return f"[dim]{wanted}: not measured[/]"
    return f"[green]{wanted}: met[/]" if met else f"[red]{wanted}: missed, {measured(target, value)}[/]"


def _ratio(value: float | None) -> str:
    if value is None:
        return "[dim]–[/]"
    return f"[green]{value:.2f}x[/]" if value >= 1 else f"[bold red]{value:.2f}x[/]"


def _column(spread: dict[str, float] | None) -> str:
    return duration(spread["median"]) if spread else "[dim]–[/]"


def _time(record: Record | None) -> str:
    return duration(median(record)) if record and "seconds" in record else "[dim]–[/]"
