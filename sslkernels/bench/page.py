# SPDX-License-Identifier: Apache-2.0
"""The page of results. First come the losses, then each family's pictures and all its numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from sslkernels.bench import curves, pictures, train
from sslkernels.bench.cases import FAMILIES, Target
from sslkernels.bench.judge import (
    DAGGER,
    PHASES,
    Key,
    Trial,
    ahead_from,
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
    sweeps,
    trials,
)  # fmt: skip
from sslkernels.bench.names import (
    commit,
    duration,
    has_backward,
    machine,
    number,
    passes_of,
    shape,
    short,
    size,
    title,
    titled,
)
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.records import CONTROL, Record, Results, training_of
from sslkernels.html import image, page, section, table

_STYLE = """
main { max-width: 1200px } main img { max-width: min(100%, 900px) }
.wide { overflow-x: auto; margin-top: 8px } .wide table { font-size: .82rem }
.wide td, .wide th { white-space: nowrap; padding: 3px 0 3px 12px }
.wide td:first-child, .wide th:first-child { padding-left: 0 }
.wide small { color: #616e7c } small .loss { font-weight: 600 }
.loss { color: #b91c1c; font-weight: 700 }
h3 { font-size: 1rem; margin: 18px 0 2px } ul { margin: 0; padding-left: 20px }
@media (max-width: 600px) { main { padding: 20px 8px } section { padding: 14px 12px } }
@page { size: A4 landscape; margin: 10mm }
@media print {
  main { max-width: none; padding: 0 } body { background: #fff; font-size: 13px }
  section { border: 0; padding: 8px 0 } .wide { overflow: visible } .wide table { font-size: .7rem }
  tr, img { break-inside: avoid } h2, h3, section > .muted { break-after: avoid }
  main img { max-width: 100%; max-height: 180mm }
}
"""


def files(results: Results) -> dict[str, bytes]:
    """The files by name: index.html, and each family's pictures apart."""
    found = {"index.html": render(results).encode()}
    for name, records in results.families.items():
        if _has_ratio(records):
            found[f"{name}.png"] = pictures.png(pictures.ratios(records), records)
        if (figure := curves.sizes(records)) is not None:
            found[f"{name}-sizes.png"] = pictures.png(figure, records)
    return found


def render(results: Results) -> str:
    """Render the page of ``results``, which are not empty."""
    content = [_where(results)]
    benchmarks = [*results.families.values(), *results.crossover.values()]
    if benchmarks:
        content.append(_losses(results))
    content += [_family(name, records) for name, records in results.families.items()]
    content += [_crossover(name, records) for name, records in results.crossover.items()]
    if results.trainings:
        behind = _behind(results.trainings)
        if behind:
            content.insert(1, section("Where training loses", "", behind))
        content.append(_trainings(results.trainings))
    if benchmarks:
        content.append(section("Not measured", "", _unmeasured([r for records in benchmarks for r in records])))
    content.append(section("Measured", *_measured_where(results)))
    return page("Benchmarks of sslkernels", content, _STYLE)


def _where(results: Results) -> str:
    everything = results.all
    machines = dict.fromkeys(machine(r) for r in everything)
    versions = dict.fromkeys(f"torch {r['versions']['torch']}" for r in everything)
    commits = dict.fromkeys(commit(r) for r in everything)
    code = f"commit {next(iter(commits)) or 'unknown'}" if len(commits) == 1 else f"{len(commits)} commits, see the end"
    words = "; ".join((" and ".join(machines), " and ".join(versions), code))
    return (
        f'<p class="muted">{escape(words)}. Ratios are other ÷ ours, medians of interleaved calls; '
        f'below 1, in <span class="loss">red</span>, ours is slower.</p>'
    )


def _losses(results: Results) -> str:
    rows: list[tuple[bool, bool, list[str]]] = []
    compared = 0
    for swept, groups in ((False, results.families), (True, results.crossover)):
        for records in groups.values():
            found = trials(records)
            compared += sum(any(ratio(trial, other) for other in OTHERS) for trial in found.values())
            for key, other, ratios in losses(records):
                mine, trial = ours(found[key]), found[key]
                if mine is None:
                    continue
                update = "bwd" not in ratios
                cells = [
                    _name(trial, key) + (", sweep" if swept else ""),
                    escape(other),
                    *("" if update and phase != "fwd+bwd" else _ratio(ratios.get(phase)) for phase in PHASES),
                    duration(median(mine)),
                    duration(median(trial[other])),
                ]
                rows.append((swept, not is_loss(ratios["fwd+bwd"]), cells))
    records = [r for groups in (results.families, results.crossover) for group in groups.values() for r in group]
    misses = [
        [_name(trials(records_)[key], key), escape(describe(target)), _red(measured(target, value))]
        for records_ in (*results.families.values(), *results.crossover.values())
        for key, target, value in missed(records_)
    ]
    failures = [
        f"<li>{_name({'': r}, (r['workload'], r['dtype']))}: {escape(str(r['why']))}</li>"
        for r in records
        if r["status"] == "failed"
    ]
    # Rows that are slower in both passes together come first, those of the sweep last.
    rows.sort(key=lambda row: row[:2])
    summary = f"{len(rows)} comparisons in which ours is slower in some pass, of {compared} workloads and dtypes."
    parts = [
        _wide(["workload", "against", "fwd+bwd", "fwd", "bwd", "ours", "other"], [cells for *_, cells in rows])
        if rows
        else "<p>Ours is slower nowhere.</p>",
        "<h3>Targets missed</h3>",
        _wide(["workload", "target", "measured"], misses) if misses else "<p>None.</p>",
        "<h3>Wrong or broken</h3>",
        f"<ul>{''.join(failures)}</ul>" if failures else "<p>Every provider that ran passed the gate.</p>",
    ]
    return section("Where we lose", summary, "".join(parts))


def _family(name: str, records: Sequence[Record]) -> str:
    family = records[0]["family"]
    parts = []
    if _has_ratio(records):
        parts.append(_picture(pictures.svg(pictures.ratios(records)), f"{name}: ratios, other ÷ ours"))
    for draw, words in (
        (curves.sizes, "time and memory over size"),
        (curves.floors, "fraction of the floor"),
    ):
        figure = draw(records)
        if figure is not None:
            parts.append(_picture(pictures.svg(figure), f"{name}: {words}"))
    return section(
        FAMILIES[family].title + name.removeprefix(family),
        f"{passes_of(records[0]).capitalize()} on {machine(records[0])}.",
        "".join(parts) + _numbers(records),
    )


def _has_ratio(records: Sequence[Record]) -> bool:
    return any(ratio(trial, other) for trial in trials(records).values() for other in OTHERS)


def _numbers(records: Sequence[Record]) -> str:
    """The table of all numbers, with a row per workload and dtype."""
    found = trials(records)
    others = [o for o in OTHERS if any("seconds" in trial.get(o, ()) for trial in found.values())]
    head = ["workload", "ours", "p20–p80", *(f"× {other}" for other in others), "memory", "of floor", "targets"]
    rows = []
    for key, trial in found.items():
        mine = ours(trial)
        if mine is None:
            why = next((str(r["why"]) for name, r in trial.items() if name not in OTHERS and r["why"]), "not run")
            rows.append([_name(trial, key), _red(why), *("" for _ in head[2:])])
            continue
        passes = ("fwd", "bwd") if has_backward(mine) else ()
        spread, floor = mine["seconds"]["fwd+bwd"], mine.get("floor")
        rows.append(
            [
                ("~ " if disturbed(trial) else "") + _name(trial, key),
                _over(duration(median(mine)), *(duration(median(mine, phase)) for phase in passes)),
                f"{number(spread['p20'] * 1e3)}–{number(spread['p80'] * 1e3)} ms",
                *(
                    "–"
                    if ratio(trial, other) is None
                    else mark(trial, other)
                    + _over(*(_ratio(ratio(trial, other, phase)) for phase in ("fwd+bwd", *passes)))
                    for other in others
                ),
                _over(size(mine["memory_bytes"]), "eager " + size(trial.get("eager", {}).get("memory_bytes"))),
                _over(f"{floor['fraction']:.0%}", escape(str(floor["bound"]))) if floor else "–",
                "<br>".join(_verdict(*verdict) for verdict in judged(key, trial)) or "–",
            ]
        )
    small = "Small: forward · backward apart. " if has_backward(records[0]) else ""
    marked = (
        "~: another process disturbed every sample of ours or of another, or the control moved at every attempt."
        if any(map(disturbed, found.values()))
        else ""
    )
    off = [f"{_name(found[key], key)} {name}: {escape(sentence)}" for key, name, sentence in slightly_wrong(records)]
    if off:
        marked += f" {DAGGER} slightly wrong by the correctness gate, and timed all the same: {'; '.join(off)}."
    return f'<p class="muted">{small}{marked}</p>' + _wide(head, rows)


def _verdict(target: Target, value: float | None, met: bool | None) -> str:
    wanted = escape(describe(target))
    if value is None:
        return f"{wanted}: not measured"
    return f"{wanted}: met" if met else _red(f"{describe(target)}: {measured(target, value)}")


def _crossover(name: str, records: Sequence[Record]) -> str:
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in crossings(records))
    picture = _picture(pictures.svg(curves.crossover(records)), f"{name}: dense or fused, time over size")
    return section(f"Dense or fused: {name}", "", f"<ul>{sentences}</ul>{picture}{_numbers(records)}")


def crossings(records: Sequence[Record]) -> list[str]:
    """Say from which size on ours is ahead for good, in a sentence per op and dtype.

    One is "NT-Xent, D = 128, fp32: ours is ahead of eager from N = 64 on and ahead of compile from N = 256 on."
    """
    sentences = []
    for (op, dtype), sweep in sweeps(records).items():
        words = []
        for other in ("eager", "compile"):
            timed = [at for at, trial in sweep.trials.items() if ratio(trial, other) is not None]
            if not timed:
                continue
            at = ahead_from(sweep, other)
            if at is None:
                words.append(f"behind {other} at the largest size, {sweep.dimension} = {timed[-1]}")
            elif at == timed[0]:
                words.append(f"ahead of {other} at every size, {sweep.dimension} = {timed[0]} to {timed[-1]}")
            else:
                words.append(f"ahead of {other} from {sweep.dimension} = {at} on")
        if words:
            sentences.append(f"{title(op)}, {sweep.fixed}, {short(dtype)}: ours is {' and '.join(words)}.")
    return sentences


def by_training(trainings: Iterable[Record]) -> dict[tuple[str, str, str], dict[str, Record]]:
    """Group the records of each training by role: `other` (reference, or lightly), `ours`, `control`."""
    found: dict[tuple[str, str, str], dict[str, Record]] = {}
    for record in trainings:
        training = training_of(record)
        role = {training[2]: "other", CONTROL: "control"}.get(record["backend"], "ours")
        found.setdefault(training, {})[role] = record
    return found


def _named(training: tuple[str, str, str]) -> str:
    """Name a training for people: the method, and what is not as usual."""
    method, preset, against = training
    unusual = [preset] if preset != "small" else []
    return ", ".join([method, *unusual, *([f"against {against}"] if against != "reference" else [])])


def _behind(trainings: Sequence[Record]) -> str:
    """Write a line for each method and cost in which ours is behind the reference, or whose curves part."""
    lines = []
    for training, roles in by_training(trainings).items():
        if {"other", "ours", "control"} <= set(roles):
            triple = list(roles.values())
            told = [re.sub(r"\[/?\w*\]", "", line) for line in train.remarks(triple)]
            told += [] if roles["ours"]["agrees"] else [train.verdict(triple)]
            lines += [f"<li>{_red(f'{_named(training)}: {line}')}</li>" for line in told]
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def _trainings(trainings: Sequence[Record]) -> str:
    methods = {_named(training): roles for training, roles in by_training(trainings).items()}
    columns = {"loss": "loss_milliseconds", "update": "update_milliseconds"}
    other = "other" if any(training_of(record)[2] != "reference" for record in trainings) else "reference"
    head = ["method", f"images/s {other}", "images/s ours", "ratio"]
    head += [f"{what} {whose}" for what in columns for whose in (other, "ours")]
    head += [f"memory {other}", "memory ours", "curves agree"]
    rows = []
    for method, roles in methods.items():
        mine, theirs = roles.get("ours", {}), roles.get("other", {})
        speed, base = mine.get("images_per_second"), theirs.get("images_per_second")
        agrees = mine.get("agrees")
        rows.append(
            [
                escape(method),
                *("–" if value is None else f"{value:,.0f}" for value in (base, speed)),
                _ratio(speed / base if speed and base else None),
                *(_milliseconds(r.get(key), theirs.get(key)) for key in columns.values() for r in (theirs, mine)),
                *(size(r.get("peak_memory_bytes")) for r in (theirs, mine)),
                "–" if agrees is None else "yes" if agrees else _red("no"),
            ]
        )
    losses_of = {method: {role: r["losses"] for role, r in roles.items()} for method, roles in methods.items()}
    first = trainings[0]
    words = (
        f"The same training, seeds and data on the other side (the reference backend, or lightly's parts where a row "
        f"says so) and on ours, on {machine(first)}. "
        "The control starts from weights one rounding away: how far it strays, any correct backend may."
    )
    picture = _picture(pictures.svg(curves.loss_curves(losses_of)), "Losses on the other side and on ours")
    return section("Training", words, _wide(head, rows) + picture)


def _milliseconds(value: float | None, reference: float | None) -> str:
    if value is None:
        return "–"
    text = f"{number(value)} ms"
    return _red(text) if reference and is_loss(reference / value) else text


def _unmeasured(records: Sequence[Record]) -> str:
    """Say who was skipped and why, and what peers do otherwise."""
    lines = skips(records)
    lines += dict.fromkeys(str(r["note"]) for r in records if "seconds" in r and r.get("note"))
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else "<p>Nothing.</p>"


def _measured_where(results: Results) -> tuple[str, str]:
    """List every run that the page draws from, and warn where they differ."""
    runs: dict[tuple[str, ...], None] = {}
    groups = {**results.families, **{f"{n}, sweep": g for n, g in results.crossover.items()}}
    for name, records in (*groups.items(), ("training", results.trainings)):
        for r in records:
            runs[name, machine(r), r["versions"]["torch"], commit(r) or "unknown", r["date"]] = None
    warnings = []
    for at, what in ((1, "machines"), (2, "versions of torch"), (3, "commits")):
        if len({run[at] for run in runs}) > 1:
            warnings.append(what)
    words = f"The runs differ in {' and '.join(warnings)}: compare within one, not across." if warnings else ""
    rows = [[escape(cell) for cell in run] for run in runs]
    return words, _wide(["what", "machine", "torch", "commit", "date"], rows)


def _name(trial: Trial, key: Key) -> str:
    record = next(iter(trial.values()))
    return escape(f"{titled(record)} {shape(record)} {short(key[1])}")


def _ratio(value: float | None) -> str:
    if value is None:
        return "–"
    return _red(f"{value:.2f}") if is_loss(value) else f"{value:.2f}"


def _over(text: str, *small: str) -> str:
    """HTML with the first text on top and the others small below it."""
    return f"{text}<br><small>{' · '.join(small)}</small>" if small else text


def _red(text: str) -> str:
    return f'<span class="loss">{escape(text)}</span>'


def _picture(data: bytes, name: str) -> str:
    return image(data, name, "svg+xml")


def _wide(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f'<div class="wide">{table(list(map(escape, head)), rows)}</div>'
