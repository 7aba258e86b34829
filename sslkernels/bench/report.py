# SPDX-License-Identifier: Apache-2.0
"""Tables in which losses stand as plainly as wins, the comparison of two files, and the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslkernels.bench.architectures import architecture
from sslkernels.bench.runner import Record
from sslkernels.bench.workloads import WORKLOADS, Target, Workload

if TYPE_CHECKING:
    from rich.console import Console

OTHERS = ("eager", "compile", "lightly", "dual")
_KEY = tuple[str, str]


def cases(records: Iterable[Record]) -> dict[_KEY, dict[str, Record]]:
    """Records by (workload, dtype), then by provider, in the file's order."""
    found: dict[_KEY, dict[str, Record]] = {}
    for record in records:
        found.setdefault((record["workload"], record["dtype"]), {})[record["provider"]] = record
    return found


def ours(case: dict[str, Record]) -> Record | None:
    """The record of the backend that the library chooses by itself; without it, of the first of ours there is."""
    timed = [r for name, r in case.items() if name not in OTHERS and "seconds" in r]
    return next((r for r in timed if r["chosen"]), timed[0] if timed else None)


def median(record: Record, phase: str = "fwd+bwd") -> float:
    return record["seconds"][phase]["median"]


def ratio(case: dict[str, Record], other: str, phase: str = "fwd+bwd") -> float | None:
    """Other's time over ours: above 1 we are faster."""
    mine, theirs = ours(case), case.get(other)
    if mine is None or theirs is None or phase not in theirs.get("seconds", ()):
        return None
    return median(theirs, phase) / median(mine, phase)


def judged(key: _KEY, case: dict[str, Record]) -> list[tuple[Target, float | None, bool | None]]:
    """Each target of a case with what was measured and whether it is met; None where it was not measured."""
    mine = ours(case)
    workload = next((w for w in WORKLOADS if str(w) == key[0]), None)
    if workload is None or mine is None:
        return []
    verdicts = []
    for target in workload.targets_for(key[1], mine["device"]["type"]):
        if target.kind in OTHERS:
            value = ratio(case, target.kind)
            met = None if value is None else value >= target.value
        else:
            value = median(mine) if target.kind == "seconds" else mine["memory_bytes"]
            met = None if value is None else value <= target.value
        verdicts.append((target, value, met))
    return verdicts


def print_run(records: Sequence[Record], console: Console) -> None:
    """What was measured, what lost, which target was missed, what was skipped or failed."""
    from rich.table import Table

    found = cases(records)
    first = records[0]
    table = Table(
        title=f"{first['family']}, {_what(first)}: {_place(first)}",
        caption="ratio = other ÷ ours: above 1 ours is faster · memory: peak above the inputs · floor: see --help",
    )
    table.add_column("workload", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    others = [other for other in OTHERS if any("seconds" in case.get(other, ()) for case in found.values())]
    passes = () if _is_update(first) else ("fwd",)
    for name in ("ours", *passes, "p20…p80", *others, "memory", "eager's", "of floor"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("target")
    for key, case in found.items():
        mine = ours(case)
        if mine is None:
            why = next((f"{r['status']}" for n, r in case.items() if n not in OTHERS), "not run")
            times = [_time(r) for r in (case.get(n) for n in others)]
            table.add_row(key[0], _short(key[1]), why, *("" for _ in passes), "", *times, "", "", "", "")
            continue
        spread = mine["seconds"]["fwd+bwd"]
        table.add_row(
            key[0],
            _short(key[1]),
            ("~" if mine["disturbed"] else "") + _seconds(median(mine)),
            *(_seconds(median(mine, phase)) for phase in passes),
            f"{_number(spread['p20'] * 1e3)}…{_number(spread['p80'] * 1e3)}",
            *(_ratio(ratio(case, other)) for other in others),
            _bytes(mine["memory_bytes"]),
            _bytes(case["eager"].get("memory_bytes")) if "eager" in case else "",
            f"{mine['floor']['fraction']:.0%}",
            "\n".join(_verdict(*verdict) for verdict in judged(key, case)),
        )
    console.print(table)
    for sentence in remarks(records):
        console.print(sentence, highlight=False, soft_wrap=True)


def remarks(records: Sequence[Record]) -> list[str]:
    """Losses, missed targets, failures, skips and disturbed measurements, a line each."""
    found = cases(records)
    lines = []
    for (workload, dtype), case in found.items():
        for other in OTHERS:
            for phase in ("fwd+bwd", "fwd", "bwd"):
                value = ratio(case, other, phase)
                if value is not None and round(value, 2) < 1:
                    at = "update" if _is_update(case[other]) else phase
                    lines.append(f"[red]slower[/]: {workload} {_short(dtype)} {at} {value:.2f}x of {other}")
                    break
    for key, case in found.items():
        for target, value, met in judged(key, case):
            if met is False and value is not None:
                lines.append(f"[red]target missed[/]: {key[0]} {_short(key[1])} {_verdict(target, value, met)}")
    for record in records:
        if record["status"] == "failed":
            lines.append(f"[red]failed[/]: {record['workload']} {_short(record['dtype'])}: {_plain(record['why'])}")
    skipped: dict[str, list[str]] = {}
    for record in records:
        if record["status"] == "skipped":
            skipped.setdefault(f"{record['provider']}: {record['why']}", []).append(record["workload"])
    for why, where in skipped.items():
        everywhere = len(where) == sum(r["provider"] == why.split(":")[0] for r in records)
        lines.append(
            f"[dim]skipped[/]: {_plain(why)}" + ("" if everywhere else f" ({', '.join(dict.fromkeys(where))})")
        )
    disturbed = [r for r in records if r.get("disturbed")]
    discarded = sum(r.get("discarded", 0) for r in records)
    if discarded or disturbed:
        note = f"{discarded} samples were discarded because another process had the processor"
        if disturbed:
            note += f"; {len(disturbed)} measurements marked ~ never had it to themselves: run again on a quiet machine"
        lines.append(f"[yellow]disturbed[/]: {note}.")
    for dtype in dict.fromkeys(r["dtype"] for r in records):
        floor = next((r["floor"] for r in records if r["dtype"] == dtype and "floor" in r), None)
        if floor:
            lines.append(
                f"[dim]floor[/]: {_short(dtype)} {floor['peak_operations_per_second'] / 1e9:.0f} GFLOP/s "
                f"({floor['peak_source']}), copy {floor['copy_bytes_per_second'] / 1e9:.1f} GB/s; "
                "exponentials are not in it."
            )
    return lines


def print_comparison(before: Sequence[Record], after: Sequence[Record], console: Console) -> float:
    """Times of both files and their ratio; returns the largest slowdown of ours, such as 1.25."""
    from rich.table import Table

    old, new = cases(before), cases(after)
    table = Table(
        title=f"{_what(before[0])}, A against B",
        caption=f"A: {_place(before[0])}\nB: {_place(after[0])}\nB ÷ A: below 1 B is faster; "
        "the others show how far the machine itself moved",
    )
    for name in ("workload", "dtype", "provider"):
        table.add_column(name, no_wrap=True)
    for name in ("A", "B", "B ÷ A", "memory A", "memory B"):
        table.add_column(name, justify="right", no_wrap=True)
    worst, rows = 0.0, 0
    for key in (k for k in old if k in new):
        for provider in (p for p in old[key] if p in new[key]):
            a, b = old[key][provider], new[key][provider]
            if "seconds" not in a or "seconds" not in b:
                continue
            rows += 1
            moved = median(b) / median(a)
            if provider not in OTHERS:
                worst = max(worst, moved)
            colour = "red" if moved > 1.05 else "green" if moved < 0.95 else "default"
            table.add_row(
                key[0],
                _short(key[1]),
                provider,
                _seconds(median(a)),
                _seconds(median(b)),
                f"[{colour}]{moved:.2f}[/]",
                _bytes(a.get("memory_bytes")),
                _bytes(b.get("memory_bytes")),
            )
    if not rows:
        raise ValueError("the two files share no timed workload, dtype and provider; nothing can be compared.")
    console.print(table)
    return worst


_COLOURS = {"eager": "#1f5fa8", "compile": "#d9791a", "lightly": "#3f8f4f", "dual": "#7b4fa3"}
_LOSS = "#b3261e"
_MARKS = {"eager": "o", "compile": "D", "lightly": "s", "dual": "^"}
_TITLES = {
    "nt_xent": "NT-Xent",
    "info_nce": "queue InfoNCE",
    "clip_loss": "CLIP",
    "barlow_twins": "Barlow Twins",
    "gather_tokens": "gather",
    "restore_tokens": "restore + position",
    "apply_masks": "apply masks",
    "masked_mse": "masked MSE",
    "vicreg": "VICReg",
    "ema_update": "EMA",
}


def plot(records: Sequence[Record], path: Path) -> None:
    """Speed of ours against each other provider: a row per workload, a panel per dtype, 1.0 marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    found = {key: case for key, case in cases(records).items() if any(ratio(case, other) for other in OTHERS)}
    if not found:
        raise ValueError(
            "the file has no ratio to draw: it needs one of our backends beside eager, compile, lightly or dual."
        )
    workloads = list(dict.fromkeys(workload for workload, _ in found))
    dtypes = list(dict.fromkeys(dtype for _, dtype in found))
    values = [value for case in found.values() for other in OTHERS if (value := ratio(case, other))]
    low, high = min(0.65, *(v / 1.25 for v in values)), max(2.0, *(v * 1.25 for v in values))
    used = [other for other in OTHERS if any(ratio(case, other) for case in found.values())]

    style = {"font.family": "DejaVu Sans", "font.size": 11, "svg.fonttype": "none"}
    with plt.rc_context(style):
        height = 1.95 + 0.54 * len(workloads)
        figure, axes = plt.subplots(1, len(dtypes), figsize=(9, height), dpi=200, sharey=True, squeeze=False)
        for axis, dtype in zip(axes[0], dtypes, strict=True):
            _panel(axis, dtype, workloads, found, used)
            axis.set_xscale("log")
            axis.set_xlim(low, high)
            every = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
            ticks = [
                t for t in (every if high < 100 * low else (0.1, 1, 3, 10, 30, 100, 300, 1000)) if low <= t <= high
            ]
            axis.xaxis.set_major_locator(FixedLocator(ticks))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        axes[0][0].set_yticks(range(len(workloads)), [_label(found, w) for w in workloads])
        axes[0][0].set_ylim(len(workloads) - 0.45, -0.55)
        top = 1 - 0.92 / height
        figure.subplots_adjust(left=0.2, right=0.985, top=top - 0.3 / height, bottom=0.7 / height, wspace=0.05)
        figure.text(0.015, 1 - 0.33 / height, "How many times faster", fontsize=15, fontweight="bold", va="center")
        figure.text(0.015, 1 - 0.65 / height, _subtitle(records), fontsize=9.5, color="#555555", va="center")
        handles = [
            plt.Line2D([], [], marker=_MARKS[o], color="none", mfc=_COLOURS[o], mec="none", ms=8, label=f"than {o}")
            for o in used
        ]
        figure.legend(
            handles=handles, loc="center right", bbox_to_anchor=(0.99, 1 - 0.33 / height), ncols=len(used),
            frameon=False, handletextpad=0.2, columnspacing=1.4,
        )  # fmt: skip
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            figure.savefig(temporary, format="png", facecolor="white")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
            plt.close(figure)


def _panel(axis: Any, dtype: str, workloads: list[str], found: dict[_KEY, dict[str, Record]], used: list[str]) -> None:
    from matplotlib import patheffects

    axis.set_title(_short(dtype), fontsize=12, fontweight="bold", loc="left", pad=8)
    axis.axvspan(1e-6, 1, color=_LOSS, alpha=0.07, lw=0)
    axis.axvline(1, color="#333333", lw=1.2, zorder=2)
    outlined = [patheffects.withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    for row, workload in enumerate(workloads):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#f4f5f7", zorder=0, lw=0)
        case = found.get((workload, dtype), {})
        points = [(value, other) for other in used if (value := ratio(case, other))] if case else []
        if not points:
            continue
        ends = [1.0, *(value for value, _ in points)]
        axis.plot([min(ends), max(ends)], [row, row], color="#c9ccd1", lw=2, zorder=1, solid_capstyle="round")
        for value, other in points:
            axis.plot(value, row, _MARKS[other], color=_COLOURS[other], ms=8.5, mec="white", mew=0.8, zorder=3)
        slowest = min(value for value, _ in points)
        said = 0.0
        for value, other in sorted(points):
            if value < 1:  # said below, in red, where it does not cover another
                if value < 1.25 * said:
                    continue
                said = value
                side = "center" if value == slowest else "left"
                axis.annotate(
                    f"{_number(value)}×", (value, row), xytext=(0, -7), textcoords="offset points", va="top",
                    ha=side, fontsize=9, fontweight="bold", color=_LOSS, path_effects=outlined,
                )  # fmt: skip
            elif other == used[0]:
                axis.annotate(
                    f"{_number(value)}×", (value, row), xytext=(0, 7), textcoords="offset points", va="bottom",
                    ha="center", fontsize=9, color=_COLOURS[other], path_effects=outlined,
                )  # fmt: skip
    below = {"transform": axis.get_xaxis_transform(), "fontsize": 9, "va": "top"}
    axis.text(0.97, -0.45 / len(workloads), "ours slower ◂", ha="right", color=_LOSS, **below)
    axis.text(1.03, -0.45 / len(workloads), "▸ ours faster", ha="left", color="#333333", **below)
    axis.grid(axis="x", color="#e3e5e8", lw=0.8, zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#b8bcc2")
    axis.tick_params(axis="both", length=0, colors="#333333")


def _label(found: dict[_KEY, dict[str, Record]], workload: str) -> str:
    record = next(iter(next(case for (name, _), case in found.items() if name == workload).values()))
    title = _TITLES.get(record["op"], record["op"])
    if _is_update(record):
        title = f"{title}, {architecture(*record['shape'])[0]}"
    return f"{title}\n{'×'.join(Workload(record['op'], tuple(record['shape'])).sizes)}"


def _subtitle(records: Sequence[Record]) -> str:
    first = records[0]
    what = "Update" if _is_update(first) else "Loss forward + backward"
    return f"{what}, time of the other ÷ ours. {_place(first)}"


def _is_update(record: Record) -> bool:
    """Whether there is no backward."""
    return record["op"] == "ema_update"


def _what(record: Record) -> str:
    return "update" if _is_update(record) else "forward + backward"


def _place(record: Record) -> str:
    device = record["device"]
    where = f"{device['name']}, {record['threads']} threads, {device['isa']}"
    commit = record["commit"]
    known = "" if commit is None else f", commit {commit[:9]}{'-dirty' if commit.endswith('-dirty') else ''}"
    return f"{where if device['type'] == 'cpu' else device['name']}, torch {record['versions']['torch']}{known}"


def describe(target: Target, dtype: str | None = None) -> str:
    if target.kind in OTHERS:
        wanted = f"≥ {target.value:g}x {target.kind}"
    else:
        wanted = f"≤ {_seconds(target.value) if target.kind == 'seconds' else _bytes(target.value)}"
    return wanted if dtype is None else f"{_short(dtype)} {wanted}"


def _verdict(target: Target, value: float | None, met: bool | None) -> str:
    wanted = describe(target)
    if value is not None:
        got = f"{value:.2f}x" if target.kind in OTHERS else (_seconds if target.kind == "seconds" else _bytes)(value)
    if met is None:
        return f"[dim]{wanted}: not measured[/]"
    return f"[green]{wanted}: met[/]" if met else f"[red]{wanted}: missed, {got}[/]"


def _ratio(value: float | None) -> str:
    if value is None:
        return "[dim]–[/]"
    return f"[green]{value:.2f}x[/]" if value >= 1 else f"[bold red]{value:.2f}x[/]"


def _time(record: Record | None) -> str:
    return _seconds(median(record)) if record and "seconds" in record else "[dim]–[/]"


def _seconds(seconds: float) -> str:
    return f"{_number(seconds * 1e3)} ms" if seconds < 1 else f"{_number(seconds)} s"


def _bytes(count: float | None) -> str:
    if count is None:
        return "–"
    return f"{_number(count / 2**20)} MiB" if count < 2**30 else f"{_number(count / 2**30)} GiB"


def _number(x: float) -> str:
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def _short(dtype: str) -> str:
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}.get(dtype, dtype)


def _plain(text: str) -> str:
    """Brackets are markup to rich."""
    return text.replace("[", "\\[")
