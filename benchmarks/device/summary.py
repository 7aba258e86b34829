# SPDX-License-Identifier: Apache-2.0
"""Says each goal, what was measured, and whether that meets it: `python -m device.summary`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from xml.etree import ElementTree

from device import files
from device.plan import COMPILE, TIME
from device.rehearsal import REHEARSED
from sslkernels.bench import judge
from sslkernels.bench.names import duration, size
from sslkernels.bench.records import fault
from sslkernels.bench.workloads import WORKLOADS


def main() -> int:
    if REHEARSED:
        print("REHEARSAL: tiny shapes on a clock of its own; no number below was measured on a GPU.")
    for line in (*_smoke(), *_tests(), *_sanitizer(), *_peaks(), *_times(), *_goals()):
        print(line)
    return 0


def _smoke() -> Iterator[str]:
    last = {(x.get("item", f"loss {x['op']}"), x.get("backend")): x for x in files.lines(files.out() / "smoke.jsonl")}
    bad = [x for x in last.values() if not x["ok"]]
    yield f"smoke: {len(last) - len(bad)} of {len(last)} lines are all green"
    for x in bad:
        wrong = "; ".join(f"{name}: {said}" for name, said in x["checks"].items() if said != "ok")
        yield f"  {x.get('item', x['op'])} {x.get('backend', '')}: {wrong}"


def _tests() -> Iterator[str]:
    path = files.out() / "junit.xml"
    if not path.exists():
        return
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    counts = {kind: sum(case.find(kind) is not None for case in cases) for kind in ("failure", "error", "skipped")}
    passed = len(cases) - sum(counts.values())
    yield (
        f"pytest -m gpu: {passed} passed, {counts['failure']} failed, {counts['error']} unfinished or in error, "
        f"{counts['skipped']} skipped"
    )
    for case in cases:
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                last = (found.get("message") or "").strip().splitlines()[-1:]
                yield f"  {kind}: {case.get('classname')}::{case.get('name')}: {' '.join(last)[:150]}"


def _sanitizer() -> Iterator[str]:
    path = files.out() / "sanitizer.log"
    if path.exists():
        told = [line for line in path.read_text(errors="replace").splitlines() if "ERROR SUMMARY" in line]
        yield f"compute-sanitizer: {'; '.join(line.strip('= ') for line in told) or 'no summary'}"


def _peaks() -> Iterator[str]:
    path = files.out() / "env.json"
    found = files.update(path).get("peaks", {}) if path.exists() else {}
    told = (f"{name} {rate / 1e12:.3g} T{'B' if name.startswith('copy') else 'FLOP'}/s" for name, rate in found.items())
    if found:
        yield f"peaks: {', '.join(told)}"


def _trials() -> dict[str, list[judge.Trial]]:
    """The runs of every item, the latest first: the records by provider. A ratio is of one run."""
    found: dict[str, dict[str, judge.Trial]] = {}
    for record in files.lines(files.out() / "bench.jsonl"):
        if fault(record) is None:
            runs = found.setdefault(record.get("item", record["workload"]), {})
            runs.setdefault(record["date"], {})[record["provider"]] = record
    return {item: list(runs.values())[::-1] for item, runs in found.items()}


def _times() -> Iterator[str]:
    yield _row("item", "provider", "device", "host", "graph", "peak memory", "of floor")
    for item, trials in _trials().items():
        for name, record in (each for trial in reversed(trials) for each in trial.items()):
            if "seconds" not in record:
                yield f"{item:<44} {name:<10} {record['status']}: {(record['why'] or '')[:90]}"
                continue
            columns = (record.get("host_seconds"), record.get("graph_seconds"))
            told = (duration(spread["median"]) if spread else "–" for spread in columns)
            share = f"{record['floor']['fraction']:.0%}{' starved' if record.get('starved') else ''}"
            device = duration(judge.median(record))
            yield _row(item, name, device, *told, size(record.get("memory_bytes")), share)


def _goals() -> Iterator[str]:
    trials = _trials()
    yield f"{'goal':<44} {'wanted':<34} {'measured':>12}"
    asked: dict[str, set[str]] = {}
    for item in (*TIME, *COMPILE):
        asked.setdefault(str(item), set()).update(item.providers)
    for item in {str(item): item for item in (*TIME, *COMPILE)}.values():
        made = next((w for w in WORKLOADS if (w.op, w.shape) == (item.op, item.shape)), None)
        targets = made.targets_for(item.dtype, "cuda") if made and item.precision == "highest" else ()
        runs = [(trial, mine) for trial in trials.get(str(item), ()) if (mine := judge.ours(trial)) is not None]
        for target in targets:
            if target.kind in judge.OTHERS and target.kind not in asked[str(item)]:
                continue
            judged = (judge.judge(target, trial, mine)[1:] for trial, mine in runs)
            value, met = next((each for each in judged if each[0] is not None), (None, None))
            told = "not measured" if value is None else judge.measured(target, value)
            verdict = "" if met is None else "rehearsed" if REHEARSED else "met" if met else "NOT MET"
            yield f"{item!s:<44} {judge.describe(target):<34} {told:>12} {verdict}".rstrip()
        # Where a goal is missed, the kernels that take the time.
        for name, seconds in next((mine["kernels"] for _, mine in runs if "kernels" in mine), {}).items():
            yield f"    {duration(seconds):>12}  {name[:100]}"


def _row(item: object, provider: str, *cells: str) -> str:
    return f"{item!s:<44} {provider:<10} " + " ".join(f"{cell:>12}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
