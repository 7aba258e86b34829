# SPDX-License-Identifier: Apache-2.0
"""Draw results/*.jsonl and write the numbers of RESULTS.md and of the README from them.

    python benchmarks/publish.py

writes results/index.html and the pictures beside it. In RESULTS.md it writes all that stands between
`<!-- results -->` and `<!-- end -->`, and in README.md all between `<!-- where we lose -->` and `<!-- end -->`; a text
without such a place stays as it is. tests/bench/test_publish.py fails where somebody forgot to run it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sslkernels.bench import page
from sslkernels.bench.cases import CASES, FAMILIES, Family
from sslkernels.bench.control import MOVED
from sslkernels.bench.gate import TIMES_PEER
from sslkernels.bench.judge import (
    DAGGER,
    describe,
    is_loss,
    losses,
    mark,
    measured,
    median,
    missed,
    ours,
    ratio,
    slightly_wrong,
    trials,
    unsettled,
)  # fmt: skip
from sslkernels.bench.names import commit, duration, machine, number, shape, short, titled
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.records import Record, Results, preloaded
from sslkernels.bench.records import load as merged
from sslkernels.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
# The files of allocators that take the place of glibc's.
_LIBRARIES = {"tcmalloc": "libtcmalloc_minimal.so.4", "jemalloc": "libjemalloc.so.2"}
README, RESULTS = ROOT / "README.md", ROOT / "benchmarks" / "RESULTS.md"
_BLOCK = re.compile(r"(<!-- (results|where we lose) -->\n).*?(<!-- end -->)", re.DOTALL)


def load() -> Results:
    """Load all result files but those of crossover.py, which times our two sides against each other."""
    first = {
        path: json.loads(path.read_text(encoding="utf-8").partition("\n")[0]) for path in sorted(FOLDER.glob("*.jsonl"))
    }
    order = list(FAMILIES)
    paths = sorted(first, key=lambda path: order.index(first[path].get("family", order[-1])))
    return merged(path for path in paths if "side" not in first[path])


def rewritten(text: str, found: Results) -> str:
    """Write the generated parts of a text anew. A text without them stays as it is."""

    def block(match: re.Match[str]) -> str:
        return match[1] + (_results(found) if match[2] == "results" else _summary(found)) + match[3]

    return _BLOCK.sub(block, text)


def _results(found: Results) -> str:
    """Write a section for every family, measured or not, for training, for the sweep over sizes, and for losses."""
    parts = [f"## {family.title}\n\n{family.intro}\n\n{_family(family, found)}" for family in FAMILIES.values()]
    parts += [f"## Training\n\n{_TRAINING}\n\n{_train(found)}"]
    parts += [f"## From which size on fusing pays\n\n{_CROSSOVER}\n\n{_crossover(found)}"]
    parts += [f"## Where we lose\n\n{_LOSSES}\n\n{_losses(found)}"]
    return "\n" + "\n".join(parts) + "\n"


_TRAINING = "The same training on the reference backend and on ours, same seeds and data, `sslkernels bench train`."
_CROSSOVER = "Dense PyTorch against ours over the size, `sslkernels bench run all --preset crossover`."
_LOSSES = "Other ÷ ours, forward + backward, of the runs above."


def _family(family: Family, found: Results) -> str:
    """Write a table for each device on which the family was measured."""
    groups = {name: group for name, group in found.families.items() if group[0]["family"] == family.name}
    if not groups:
        return f"Not measured yet: `sslkernels bench run {family.name} --out benchmarks/results/{family.name}.jsonl`.\n"
    return "\n".join(f"{_measured(group, name)}\n\n{_table(family, group)}" for name, group in groups.items())


def _measured(records: Sequence[Record], name: str) -> str:
    """Say where, with what and when each run was measured."""
    runs = dict.fromkeys(map(_run, records))
    links = [
        f"[{word}](results/{file})"
        for word, file in (("records", f"{name}.jsonl"), ("time and memory over size", f"{name}-sizes.png"))
        if word != "records" or (FOLDER / file).is_file()
    ]
    return f"Measured: {'; '.join(runs)} ({', '.join(links)})."


def _run(record: Record) -> str:
    torch = record["versions"]["torch"].split("+")[0]
    return f"{machine(record)}, torch {torch}, commit {commit(record) or 'unknown'}, {record['date'][:10]}"


def _table(family: Family, records: Sequence[Record]) -> str:
    found = trials(records)
    others = [o for o in OTHERS if any("seconds" in trial.get(o, ()) for trial in found.values())]
    rows = []
    for (_, dtype), trial in found.items():
        mine = ours(trial)
        if mine is None:
            why = next((r["status"] for name, r in trial.items() if name not in OTHERS), "not run")
            rows.append([*_name(next(iter(trial.values()))), short(dtype), why, *("–" for _ in others), "–", "–"])
            continue
        rows.append(
            [
                *_name(mine),
                short(dtype),
                duration(median(mine)),
                *(_ratio(ratio(trial, other)) + mark(trial, other) for other in others),
                _mebibytes(mine["memory_bytes"]),
                _mebibytes(trial.get("eager", {}).get("memory_bytes")),
            ]
        )
    head = [*family.columns, "ours", *(f"× {o}" for o in others), "memory", "eager's"]
    return _markdown(head, len(family.columns), rows) + _daggers(records)


def _daggers(records: Sequence[Record]) -> str:
    """Say below a table what the dagger means, and by how much each peer that has one is off."""
    names = _names(records)
    told = [f"{names[key[0]]} {short(key[1])} {name}: {off}" for key, name, off in slightly_wrong(records)]
    if not told:
        return ""
    meaning = f"misses the bound of the correctness gate, by less than {TIMES_PEER:g} times, and was timed all the same"
    return f"\n{DAGGER} {meaning}: {'; '.join(told)}.\n"


def _names(records: Sequence[Record]) -> dict[str, str]:
    """The titles of workloads, with the allocator where another than glibc's was preloaded."""
    under = f" under {allocator}" if (allocator := preloaded(records[0])) else ""
    return {r["workload"]: f"{titled(r)} {shape(r)}{under}" for r in records}


def _markdown(head: Sequence[str], words: int, rows: Iterable[Sequence[str]]) -> str:
    """Write a table. The first ``words`` columns are aligned to the left."""
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _name(record: Record) -> tuple[str, ...]:
    return CASES[record["op"]].label(tuple(record["shape"]))


def _losses(found: Results) -> str:
    """List workloads that are slower than another, then those slower in one pass alone, missed targets and errors."""
    slower, passes, targets, wrong = (_Told() for _ in range(4))
    for records in _judged(found):
        names = _names(records)
        for (workload, dtype), other, ratios in losses(records):
            if is_loss(ratios["fwd+bwd"]):
                slower.add(names[workload], dtype, f"**{ratios['fwd+bwd']:.2f}** of {other}")
            else:
                phase = next(phase for phase in ("fwd", "bwd") if is_loss(ratios[phase]))
                passes.add(names[workload], dtype, f"{phase} {ratios[phase]:.2f} of {other}")
        for (workload, dtype), target, value in missed(records):
            targets.add(names[workload], dtype, f"{measured(target, value)} for {describe(target)}")
        for r in records:
            if r["status"] == "failed":
                wrong.add(
                    names[r["workload"]], r["dtype"], f"{r['provider']} ({r['why'].split(': ', 1)[-1].rstrip('.')})"
                )
    lines = [f"- {line}." for line in slower.lines()]
    for words, told in (
        ("Level or ahead in all, and behind in one pass", passes),
        ("Targets missed", targets),
        ("Wrong by the correctness gate, and not timed", wrong),
    ):
        if told:
            lines += [f"- {words}:", *(f"  - {line}." for line in told.lines())]
    return "".join(f"{line}\n" for line in lines) or "- Nowhere, in what was measured.\n"


def _judged(found: Results) -> list[list[Record]]:
    """The groups of rows that losses are counted of: the families, and of the sweep the sizes that it alone has."""
    listed = {record["workload"] for group in found.families.values() for record in group}
    swept = ([r for r in group if r["workload"] not in listed] for group in found.crossover.values())
    return [*found.families.values(), *filter(None, swept)]


def _summary(found: Results) -> str:
    """Write a line for each provider that is ahead of us somewhere, and one for targets and errors."""
    slower: dict[str, list[tuple[float, str]]] = {}
    misses = wrong = 0
    compared = dict.fromkeys(OTHERS, 0)
    for group in _judged(found):
        names = _names(group)
        for trial in trials(group).values():
            for other in OTHERS:
                compared[other] += ratio(trial, other) is not None
        for (workload, dtype), other, ratios in losses(group):
            if is_loss(ratios["fwd+bwd"]):
                slower.setdefault(other, []).append((ratios["fwd+bwd"], f"{names[workload]} in {short(dtype)}"))
        misses += len(missed(group))
        wrong += sum(r["status"] == "failed" and r["provider"] not in OTHERS for r in group)
    lines = []
    for other in OTHERS:
        if other in slower:
            worst, where = min(slower[other])
            count = f"{len(slower[other])} of {compared[other]}"
            lines.append(f"- {other} is ahead in {count} rows. The worst ratio is **{worst:.2f}**, of {where}.")
    lines.append(f"- {misses} targets are missed, and {wrong or 'none'} of our own results failed the gate.")
    return "".join(f"{line}\n" for line in lines)


class _Told(dict[str, dict[str, list[str]]]):
    """The words on each workload, by dtype."""

    def add(self, name: str, dtype: str, words: str) -> None:
        self.setdefault(name, {}).setdefault(short(dtype), []).append(words)

    def lines(self) -> list[str]:
        return [
            f"{name}: {'; '.join(f'{dtype} {_listed(words)}' for dtype, words in by_dtype.items())}"
            for name, by_dtype in self.items()
        ]


def _listed(words: Sequence[str]) -> str:
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def _crossover(found: Results) -> str:
    lines = "".join(f"- {line}\n" for records in found.crossover.values() for line in page.crossings(records))
    return "\n".join((lines, *map(_swept, found.crossover.values())))


def _swept(records: Sequence[Record]) -> str:
    runs = "; ".join(dict.fromkeys(map(_run, records)))
    return f"Measured: {runs}.\n\n{_table(FAMILIES[records[0]['family']], records)}"


def _train(found: Results) -> str:
    if not found.trainings:
        return "Not measured yet.\n"
    rows = []
    for (method, preset, against), roles in page.by_training(found.trainings).items():
        mine, theirs = roles["ours"], roles["other"]
        rows.append(
            [
                f"`{method}`",
                preset,
                against,
                f"{theirs['images_per_second']:,.0f}",
                f"{mine['images_per_second']:,.0f}",
                _ratio(mine["images_per_second"] / theirs["images_per_second"]),
                *(
                    "–" if None in (theirs[key], mine[key]) else _pair(theirs[key], mine[key])
                    for key in ("loss_milliseconds", "update_milliseconds")
                ),
                f"{_mebibytes(theirs['peak_memory_bytes'])}, {_mebibytes(mine['peak_memory_bytes'])}",
                "yes" if mine["agrees"] else "**no**",
            ]
        )
    head = ["method", "preset", "other", "images/s, other", "ours", "×", "loss ms", "update ms", "peak memory"]
    runs = "; ".join(dict.fromkeys(map(_run, found.trainings)))
    return f"Measured: {runs}. Pairs are the other, ours.\n\n{_markdown([*head, 'curves agree'], 3, rows)}"


def _pair(reference: float, mine: float) -> str:
    text = number(mine)
    return f"{number(reference)}, {f'**{text}**' if is_loss(reference / mine) else text}"


def _ratio(value: float | None) -> str:
    """Write a ratio, in bold where we lose."""
    if value is None:
        return "–"
    if is_loss(value):
        return f"**{value:.2f}**"
    return f"{value:.2f}" if value < 2 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _mebibytes(count: float | None) -> str:
    if count is None:
        return "–"
    mebibytes = count / 2**20
    return f"{mebibytes:.1f} MiB" if mebibytes < 10 else f"{mebibytes:.0f} MiB"


def unsettled_sentence(found: Results) -> str | None:
    """Name the rows whose control never settled, and the command that measures them again."""
    rows: list[str] = []
    commands: list[str] = []
    for group in (*found.families.values(), *found.crossover.values()):
        moved = unsettled(group)
        if not moved:
            continue
        rows += [f"{workload} {short(dtype)}" for workload, dtype in moved]
        first = next(record for record in group if record.get("unsettled"))
        family, preset, allocator = first["family"], first.get("preset") or "small", preloaded(first)
        only = " ".join(f"--only {workload}" for workload in dict.fromkeys(workload for workload, _ in moved))
        out = "-".join(filter(None, ("again", family, preset, allocator)))
        before = f"LD_PRELOAD={_LIBRARIES.get(allocator, f'lib{allocator}.so')} " if allocator else ""
        device = "" if first["device"]["type"] == "cpu" else f" --device {first['device']['type']}"
        commands.append(
            f"`{before}sslkernels bench run {family} --preset {preset}{device} {only} "
            f"--out benchmarks/results/{out}.jsonl`"
        )
    if not rows:
        return None
    return (
        f"publish.py: the control moved by more than {MOVED:.0%} beside {', '.join(rows)}; "
        f"measure again on a quiet machine by {' and '.join(commands)}."
    )


def main() -> None:
    found = load()
    sentence = unsettled_sentence(found)
    if sentence:
        raise SystemExit(sentence)
    written = {FOLDER / name: content for name, content in page.files(found).items()}
    for path in (RESULTS, README):
        written[path] = rewritten(path.read_text(encoding="utf-8"), found).encode()
    for path, content in written.items():
        write_atomically(path, content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
