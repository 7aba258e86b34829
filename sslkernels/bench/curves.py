# SPDX-License-Identifier: Apache-2.0
"""The other pictures of results: time and memory over size, the floor, dense against fused, losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sslkernels.bench.cases import CASES
from sslkernels.bench.judge import Key, Trial, ahead_from, median, ours, sweeps, trials
from sslkernels.bench.names import place, shape, short, title, titled
from sslkernels.bench.pictures import COLOURS, GRID, INK, LOSS, MARKS, MUTED, styled
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS = "#111827"
_STRIPE = "#f4f5f7"


def sizes(records: Sequence[Record]) -> Figure | None:
    """Draw time and memory over the sizes of each op, in the order of their work. None where there is no time.

    Sizes stand side by side. Several have the same work, and would lie on each other on an axis of it.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    found = {key: trial for key, trial in trials(records).items() if ours(trial)}
    if not found:
        return None
    dtypes = list(dict.fromkeys(dtype for _, dtype in found))
    ops = _by_op(found)
    place_of, groups, x = {}, [], 0.0
    for op, workloads in ops.items():
        for step, workload in enumerate(workloads):
            place_of[workload] = x + step
        groups.append((title(op), x, x + len(workloads) - 1))
        x += len(workloads)
    rows = [(metric, dtype) for metric in ("time", "memory") for dtype in dtypes]
    height = 2.0 * len(rows) + 2.3
    with styled():
        figure = Figure(figsize=(9, height), dpi=160)
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (metric, dtype) in zip(axes, rows, strict=True):
            for number, (_, first, last) in enumerate(groups):
                if number % 2:
                    axis.axvspan(first - 0.5, last + 0.5, color=_STRIPE, lw=0)
            for provider in ("ours", *OTHERS):
                for workloads in ops.values():
                    points = [
                        (place_of[w], value)
                        for w in workloads
                        if (value := _measured(found.get((w, dtype), {}), provider, metric)) is not None
                    ]
                    _line(axis, points, provider)
            axis.set_ylabel(f"{short(dtype)}\n{'ms' if metric == 'time' else 'MiB'}")
            axis.yaxis.set_label_coords(-0.065, 0.5)
            values = [
                value for trial in found.values() for provider in ("ours", *OTHERS)
                if (value := _measured(trial, provider, metric)) is not None
            ]  # fmt: skip
            if metric == "time":
                axis.set_yscale("log")
                axis.set_ylim(min(values, default=1) / 1.7, max(values, default=1) * 1.7)
            else:
                axis.set_yscale("symlog", linthresh=1, linscale=0.5)
                axis.set_ylim(-0.15, max(10, 1.7 * max(values, default=1)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            _plain(axis, "y")
        for name, first, last in groups:
            axes[0].text(
                (first + last) / 2, 1.04, name.replace(" ", "\n", 1) if first == last else name,
                transform=axes[0].get_xaxis_transform(), ha="center", va="bottom", fontsize=9, color=INK,
            )  # fmt: skip
        axes[-1].set_xticks(list(place_of.values()), [_tick(found, w) for w in place_of], rotation=30, ha="right")
        axes[-1].tick_params(axis="x", labelsize=8.5)
        axes[-1].set_xlim(-0.5, x - 0.5)
        figure.subplots_adjust(left=0.1, right=0.985, top=1 - 1.35 / height, bottom=0.95 / height, hspace=0.12)
        more = f"Memory: peak above the inputs. {place(records[0])}"
        _head(figure, height, "Time and memory over size", more)
        _legend(figure, height, _used(found))
    return figure


def floors(records: Sequence[Record]) -> Figure | None:
    """Draw how much of the time the hardware alone would need, as a bar per workload and dtype. 100 % is marked."""
    from matplotlib.figure import Figure

    found = {key: trial for key, trial in trials(records).items() if (mine := ours(trial)) and "floor" in mine}
    if not found:
        return None
    height = 1.3 + 0.3 * len(found)
    with styled():
        figure = Figure(figsize=(9, height), dpi=160)
        axis = figure.subplots()
        for row, ((_, dtype), trial) in enumerate(found.items()):
            mine = ours(trial) or {}
            fraction, bound = mine["floor"]["fraction"], mine["floor"]["bound"]
            axis.barh(row, fraction, height=0.72, color=COLOURS["eager"], alpha=1 if dtype == "float32" else 0.6)
            axis.text(
                fraction + 0.01,
                row,
                f"{fraction:.0%}, {bound}",
                va="center",
                fontsize=9,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # it may stand on the line of 100 %
            )
        names = [f"{titled(record)} {shape(record)} {short(record['dtype'])}" for record in map(_any, found.values())]
        axis.set_yticks(range(len(found)), names, fontsize=9)
        axis.set_ylim(len(found) - 0.4, -0.6)
        axis.axvline(1, color=INK, lw=1.2)
        axis.set_xlim(0, max(1.25, *(1.25 * (ours(trial) or {})["floor"]["fraction"] for trial in found.values())))
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        _plain(axis, "x")
        figure.subplots_adjust(left=0.33, right=0.985, top=1 - 0.85 / height, bottom=0.35 / height)
        _head(figure, height, "Fraction of the floor", "And what sets the floor: operations at peak rate, or bytes.")
    return figure


def crossover(records: Sequence[Record]) -> Figure:
    """Draw the time of dense PyTorch, compiled and not, and of ours over the size. Where ours leads is marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    swept = sweeps(records)
    rows = -(-len(swept) // 2)
    height = 1.5 + 2.7 * rows
    with styled():
        figure = Figure(figsize=(9, height), dpi=160)
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        by_dtype = sorted(swept.items(), key=lambda item: item[0][1] != "float32")
        for axis, ((op, dtype), sweep) in zip(axes, by_dtype, strict=False):
            for provider in ("ours", "eager", "compile"):
                points = [(s, v) for s, trial in sweep.trials.items() if (v := _measured(trial, provider, "time"))]
                _line(axis, points, provider)
            ahead = max((ahead_from(sweep, other) or float("inf") for other in ("eager", "compile")), default=None)
            if ahead in sweep.trials:
                axis.axvline(ahead, color=LOSS, lw=1.2, ls=":")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(list(sweep.trials), [f"{s}" for s in sweep.trials], rotation=45, fontsize=8.5)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.set_title(f"{title(op)}, {sweep.fixed}, {short(dtype)}", fontsize=10, loc="left")
            axis.set_xlabel(sweep.dimension, fontsize=9, labelpad=1)
            axis.set_ylabel("ms", fontsize=9, labelpad=1)
            _plain(axis, "both")
        figure.subplots_adjust(
            left=0.08, right=0.985, top=1 - 1.05 / height, bottom=0.65 / height, hspace=0.6, wspace=0.16
        )
        for axis in axes[len(swept) :]:
            axis.set_visible(False)
        marked = "Dotted: from there on ours is ahead of both."
        _head(figure, height, "Dense or fused", f"{marked} {place(records[0])}")
        _legend(figure, height, ["ours", "eager", "compile"])
    return figure


def loss_curves(curves: dict[str, dict[str, Sequence[float]]]) -> Figure:
    """Draw a panel per method with the losses of `other`, `ours` and `control`. The other's line is wide."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    height = 1.1 + 2.0 * rows
    looks = {
        "other": {"color": "#9fb8dc", "lw": 4.5, "label": "reference, or as the title says"},
        "ours": {"color": _OURS, "lw": 1.3, "label": "ours"},
        "control": {"color": COLOURS["compile"], "lw": 1.2, "ls": ":", "label": "the same, weights one rounding off"},
    }
    with styled():
        figure = Figure(figsize=(9, height), dpi=160)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (method, losses) in zip(axes, curves.items(), strict=False):
            for role, look in looks.items():
                if role in losses:
                    axis.plot(range(1, len(losses[role]) + 1), losses[role], **look)
            axis.set_title(method, fontsize=10, loc="left")
            axis.tick_params(labelsize=8.5)
            _plain(axis, "both")
        for axis in axes[len(curves) :]:
            axis.set_visible(False)
        figure.subplots_adjust(
            left=0.07, right=0.985, top=1 - 0.95 / height, bottom=0.3 / height, hspace=0.45, wspace=0.25
        )
        _head(figure, height, "Loss over steps", "")
        used = {role for losses in curves.values() for role in losses}
        figure.legend(
            handles=[Line2D([], [], **look) for role, look in looks.items() if role in used],
            loc="center right", bbox_to_anchor=(0.99, 1 - 0.33 / height), ncols=len(used), frameon=False, fontsize=9,
        )  # fmt: skip
    return figure


def _by_op(found: dict[Key, Trial]) -> dict[str, list[str]]:
    """Workloads of each op, in the order of their work."""
    work = {}
    for (workload, _), trial in found.items():
        record = _any(trial)
        work[workload] = (record["op"], CASES[record["op"]].order(tuple(record["shape"])))
    ops = list(dict.fromkeys(op for op, _ in work.values()))
    return {op: sorted((w for w in work if work[w][0] == op), key=lambda w: work[w][1]) for op in ops}


def _measured(trial: Trial, provider: str, metric: str) -> float | None:
    """The time in milliseconds or the memory in MiB; None where it was not measured."""
    record = ours(trial) if provider == "ours" else trial.get(provider)
    if record is None or "seconds" not in record:
        return None
    if metric == "time":
        return median(record) * 1e3
    return None if record["memory_bytes"] is None else record["memory_bytes"] / 2**20


def _line(axis: Any, points: Sequence[tuple[float, float]], provider: str) -> None:
    if points:
        axis.plot(*zip(*points, strict=True), **_look(provider), zorder=3 if provider == "ours" else 4)


def _look(provider: str) -> dict[str, Any]:
    shared = {"mec": "white", "mew": 0.7}
    if provider == "ours":  # It is larger and below, so that neither hides the other where they are level.
        return {"color": _OURS, "marker": "o", "ms": 9, "lw": 2.2, **shared}
    return {"color": COLOURS[provider], "marker": MARKS[provider], "ms": 5.5, "lw": 1.2, **shared}


def _used(found: dict[Key, Trial]) -> list[str]:
    return ["ours", *(o for o in OTHERS if any("seconds" in trial.get(o, ()) for trial in found.values()))]


def _tick(found: dict[Key, Trial], workload: str) -> str:
    record = next(_any(trial) for (name, _), trial in found.items() if name == workload)
    return CASES[record["op"]].named(tuple(record["shape"])) or shape(record)


def _any(trial: Trial) -> Record:
    return next(iter(trial.values()))


def _head(figure: Figure, height: float, words: str, more: str) -> None:
    figure.text(0.015, 1 - 0.33 / height, words, fontsize=15, fontweight="bold", va="center")
    figure.text(0.015, 1 - 0.65 / height, more, fontsize=9.5, color=MUTED, va="center")


def _legend(figure: Figure, height: float, providers: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[Line2D([], [], label=provider, **_look(provider)) for provider in providers],
        loc="center right", bbox_to_anchor=(0.99, 1 - 0.33 / height), ncols=len(providers), frameon=False,
        fontsize=9.5, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def _plain(axis: Any, grid: str) -> None:
    axis.grid(axis=grid, color=GRID, lw=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#b8bcc2")
    axis.tick_params(axis="both", which="both", length=0, colors=INK)
