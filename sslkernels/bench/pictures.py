# SPDX-License-Identifier: Apache-2.0
"""The picture of ratios, and how pictures of results look and are saved."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sslkernels.bench.judge import Key, Trial, ratio, trials
from sslkernels.bench.names import has_backward, number, passes_of, place, shape, short, titled
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.records import Record, digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {
    "eager": "#1f5fa8",
    "compile": "#d9791a",
    "lightly": "#3f8f4f",
    "dual": "#7b4fa3",
    "memeff": "#0f8b8d",
    "siglip": "#8c6d1f",
    "liger": "#6b7f99",
    "flash_sinkhorn": "#9c4a2f",
    "faiss": "#b0487a",
    "sklearn": "#5c7f2e",
    "pml": "#3b4a54",
    "st": "#a65e2e",
}
MARKS = {
    "eager": "o",
    "compile": "D",
    "lightly": "s",
    "dual": "^",
    "memeff": "v",
    "siglip": "P",
    "liger": "h",
    "flash_sinkhorn": "d",
    "faiss": "X",
    "sklearn": "<",
    "pml": ">",
    "st": "p",
}
LOSS, INK, MUTED, GRID = "#b3261e", "#333333", "#555555", "#e3e5e8"


@contextmanager
def styled() -> Iterator[None]:
    """Set the style for drawing and saving, so that every picture looks the same on every machine."""
    import matplotlib

    style = {"font.family": "DejaVu Sans", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "sslkernels"}
    style |= {"text.parse_math": False}  # the name of a device may have a dollar in it
    with matplotlib.rc_context(style):
        yield


def png(figure: Figure, records: Sequence[Record]) -> bytes:
    """Save as PNG, with the digest of the records it was drawn from as the text `Records`."""
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="png", facecolor="white", metadata={"Records": digest(records), "Software": None})
    return out.getvalue()


def svg(figure: Figure) -> bytes:
    out = io.BytesIO()
    with styled():
        figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None})
    return out.getvalue()


def ratios(records: Sequence[Record]) -> Figure:
    """Draw the speed of ours against each other provider, with a row per workload and a panel per dtype.

    Raises:
        ValueError: there is no ratio.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    found = {key: trial for key, trial in trials(records).items() if any(ratio(trial, other) for other in OTHERS)}
    if not found:
        raise ValueError(
            f"there is no ratio to draw: a file needs one of our backends beside one of {', '.join(OTHERS)}."
        )
    workloads = list(dict.fromkeys(workload for workload, _ in found))
    dtypes = list(dict.fromkeys(dtype for _, dtype in found))
    values = [value for trial in found.values() for other in OTHERS if (value := ratio(trial, other))]
    low, high = min(0.65, *(v / 1.25 for v in values)), max(2.0, *(v * 1.25 for v in values))
    used = [other for other in OTHERS if any(ratio(trial, other) for trial in found.values())]

    with styled():
        height = 1.95 + 0.54 * len(workloads)
        figure = Figure(figsize=(9, height), dpi=200)
        axes = figure.subplots(1, len(dtypes), sharey=True, squeeze=False)
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
        widest = max(label.get_window_extent().width for label in axes[0][0].get_yticklabels()) / figure.bbox.width
        figure.subplots_adjust(
            left=max(0.2, widest + 0.025), right=0.985, top=top - 0.3 / height, bottom=0.7 / height, wspace=0.05
        )
        figure.text(0.015, 1 - 0.33 / height, "How many times faster", fontsize=15, fontweight="bold", va="center")
        figure.text(0.015, 1 - 0.65 / height, _subtitle(records[0]), fontsize=9.5, color=MUTED, va="center")
        handles = [
            Line2D([], [], marker=MARKS[o], color="none", mfc=COLOURS[o], mec="none", ms=8, label=f"than {o}")
            for o in used
        ]
        figure.legend(
            handles=handles, loc="center right", bbox_to_anchor=(0.99, 1 - 0.33 / height), ncols=len(used),
            frameon=False, handletextpad=0.2, columnspacing=1.4,
        )  # fmt: skip
        return figure


def _panel(axis: Any, dtype: str, workloads: list[str], found: dict[Key, Trial], used: list[str]) -> None:
    from matplotlib import patheffects

    axis.set_title(short(dtype), fontsize=12, fontweight="bold", loc="left", pad=8)
    axis.axvspan(1e-6, 1, color=LOSS, alpha=0.07, lw=0)
    axis.axvline(1, color=INK, lw=1.2, zorder=2)
    outlined = [patheffects.withStroke(linewidth=2.5, foreground="white", alpha=0.85)]
    for row, workload in enumerate(workloads):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#f4f5f7", zorder=0, lw=0)
        trial = found.get((workload, dtype), {})
        points = [(value, other) for other in used if (value := ratio(trial, other))] if trial else []
        if not points:
            continue
        ends = [1.0, *(value for value, _ in points)]
        axis.plot([min(ends), max(ends)], [row, row], color="#c9ccd1", lw=2, zorder=1, solid_capstyle="round")
        for value, other in points:
            axis.plot(value, row, MARKS[other], color=COLOURS[other], ms=8.5, mec="white", mew=0.8, zorder=3)
        slowest = min(value for value, _ in points)
        said = 0.0
        for value, other in sorted(points):
            if value < 1:  # written below and in red, unless it would cover another
                if value < 1.25 * said:
                    continue
                said = value
                side = "center" if value == slowest else "left"
                axis.annotate(
                    f"{number(value)}×", (value, row), xytext=(0, -7), textcoords="offset points", va="top",
                    ha=side, fontsize=9, fontweight="bold", color=LOSS, path_effects=outlined,
                )  # fmt: skip
            elif other == used[0]:
                axis.annotate(
                    f"{number(value)}×", (value, row), xytext=(0, 7), textcoords="offset points", va="bottom",
                    ha="center", fontsize=9, color=COLOURS[other], path_effects=outlined,
                )  # fmt: skip
    below = {"transform": axis.get_xaxis_transform(), "fontsize": 9, "va": "top"}
    axis.text(0.97, -0.45 / len(workloads), "ours slower ◂", ha="right", color=LOSS, **below)
    axis.text(1.03, -0.45 / len(workloads), "▸ ours faster", ha="left", color=INK, **below)
    axis.grid(axis="x", color=GRID, lw=0.8, zorder=0)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#b8bcc2")
    axis.tick_params(axis="both", length=0, colors=INK)


def _label(found: dict[Key, Trial], workload: str) -> str:
    record = next(iter(next(trial for (name, _), trial in found.items() if name == workload).values()))
    return f"{titled(record)}\n{shape(record)}"


def _subtitle(record: Record) -> str:
    what = "Loss forward + backward" if has_backward(record) else passes_of(record).capitalize()
    return f"{what}, time of the other ÷ ours. {place(record)}"
