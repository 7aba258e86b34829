# SPDX-License-Identifier: Apache-2.0
"""Draw results/*.jsonl and write the README's numbers from them.

    python benchmarks/publish.py

writes results/index.html and the pictures beside it, and in README.md what stands between `<!-- table: FAMILY -->` or
`<!-- losses -->` and `<!-- end -->`. tests/bench/test_publish.py fails where that was forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sslkernels.bench import page, results
from sslkernels.bench.architectures import network
from sslkernels.bench.names import commit, duration, machine, number, shape, short, title, titled
from sslkernels.bench.providers import OTHERS
from sslkernels.bench.report import (
    cases,
    describe,
    is_loss,
    losses,
    measured,
    median,
    missed,
    ours,
    ratio,
)  # fmt: skip
from sslkernels.bench.results import Results
from sslkernels.bench.workloads import FAMILIES
from sslkernels.files import write_atomically

Record = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
_BLOCK = re.compile(r"(<!-- (?:table: (\w+)|losses) -->\n).*?(<!-- end -->)", re.DOTALL)


def load() -> Results:
    """All result files but those of crossover.py, which times our two sides against each other."""
    first = {
        path: json.loads(path.read_text(encoding="utf-8").partition("\n")[0]) for path in sorted(FOLDER.glob("*.jsonl"))
    }
    order = list(FAMILIES)
    paths = sorted(first, key=lambda path: order.index(first[path].get("family", order[-1])))
    return results.load(path for path in paths if "side" not in first[path])


def rewritten(readme: str, found: Results) -> str:
    """The text with its generated parts as ``found`` has them."""

    def block(match: re.Match[str]) -> str:
        name = match[2]
        special: dict[str | None, Callable[[Results], str]] = {None: _losses, "train": _train, "crossover": _crossover}
        content = special[name](found) if name in special else _family(name, found)
        return match[1] + content + match[3]

    return _BLOCK.sub(block, readme)


def _family(family: str, found: Results) -> str:
    """A table for each device on which the family was measured."""
    groups = {name: records for name, records in found.families.items() if records[0]["family"] == family}
    if not groups:
        raise ValueError(f"README.md has a table of {family}, and no file in {FOLDER} has results of it.")
    return "".join(f"{_measured(records, name)}\n\n{_table(family, records)}\n" for name, records in groups.items())


def _measured(records: Sequence[Record], name: str) -> str:
    """Where, with what and when, a part for every run."""
    runs = dict.fromkeys(map(_run, records))
    links = [
        f"[{word}](benchmarks/results/{file})"
        for word, file in (("records", f"{name}.jsonl"), ("time and memory over size", f"{name}-sizes.png"))
        if word != "records" or (FOLDER / file).is_file()
    ]
    return f"Measured: {'; '.join(runs)} ({', '.join(links)})."


def _run(record: Record) -> str:
    torch = record["versions"]["torch"].split("+")[0]
    return f"{machine(record)}, torch {torch}, commit {commit(record) or 'unknown'}, {record['date'][:10]}"


def _table(family: str, records: Sequence[Record]) -> str:
    found = cases(records)
    others = [o for o in OTHERS if any("seconds" in case.get(o, ()) for case in found.values())]
    first = {"tokens": ["op", "batch, channels", "dtype"], "ema": ["teacher", "student"]}.get(
        family, ["loss, N × D", "dtype"]
    )
    rows = []
    for (_, dtype), case in found.items():
        mine = ours(case)
        if mine is None:
            why = next((r["status"] for name, r in case.items() if name not in OTHERS), "not run")
            rows.append([*_name(next(iter(case.values()))), short(dtype), why, *("–" for _ in others), "–", "–"])
            continue
        rows.append(
            [
                *_name(mine),
                short(dtype),
                duration(median(mine)),
                *(_ratio(ratio(case, other)) for other in others),
                _mebibytes(mine["memory_bytes"]),
                _mebibytes(case.get("eager", {}).get("memory_bytes")),
            ]
        )
    return _markdown([*first, "ours", *(f"× {o}" for o in others), "memory", "eager's"], len(first), rows)


def _markdown(head: Sequence[str], words: int, rows: Iterable[Sequence[str]]) -> str:
    """The first columns, ``words`` of them, are aligned to the left."""
    rule = ["---" if column < words else "---:" for column in range(len(head))]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def _name(record: Record) -> list[str]:
    op, sizes = record["op"], record["shape"]
    if record["family"] == "tokens":
        batch, length, kept, channels = sizes[0], sizes[1], sizes[-2], sizes[-1]
        words = {
            "gather_tokens": f"gather, {kept} of {length} tokens",
            "restore_tokens": f"restore {kept} to {length}, + position",
            "apply_masks": f"apply masks, {sizes[2]} sets of {kept} of {length}",
            "masked_mse": f"masked MSE, normalised, {kept} of {length}",
        }
        return [words[op], f"{batch}, {channels}"]
    if record["family"] == "ema":
        tensors, parameters = sizes
        name = network(tensors, parameters)
        if name == "equal tensors":
            return [f"{tensors} tensors of {parameters // tensors}"]
        return [f"{name}, {tensors} tensors, {parameters / 1e6:.0f} M"]
    return [f"{title(op)} {' × '.join(map(str, sizes))}"]


def _losses(found: Results) -> str:
    """A bullet per workload that is slower than another, then what is only slower in one pass, missed or wrong."""
    slower, passes, targets, wrong = (_Told() for _ in range(4))
    for records in found.families.values():
        names = {r["workload"]: f"{titled(r)} {shape(r)}" for r in records}
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


class _Told(dict[str, dict[str, list[str]]]):
    """What there is to say of a workload, by dtype."""

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
    return "".join(f"- {line}\n" for records in found.crossover.values() for line in page.crossings(records))


def _train(found: Results) -> str:
    """Empty where no training was measured."""
    if not found.trainings:
        return ""
    rows = []
    for method, roles in page.by_method(found.trainings).items():
        mine, theirs = roles["ours"], roles["reference"]
        rows.append(
            [
                f"`{method}`",
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
    head = ["method", "images/s, reference", "ours", "×", "loss ms", "update ms", "peak memory", "curves agree"]
    return f"Measured: {_run(found.trainings[0])}. Pairs are reference, ours.\n\n{_markdown(head, 1, rows)}\n"


def _pair(reference: float, mine: float) -> str:
    text = number(mine)
    return f"{number(reference)}, {f'**{text}**' if is_loss(reference / mine) else text}"


def _ratio(value: float | None) -> str:
    """Bold where we lose."""
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


def main() -> None:
    found = load()
    readme = rewritten(README.read_text(encoding="utf-8"), found)
    written = {FOLDER / name: content for name, content in page.files(found).items()}
    for path, content in {**written, README: readme.encode()}.items():
        write_atomically(path, content)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
