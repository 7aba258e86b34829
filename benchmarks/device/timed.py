# SPDX-License-Identifier: Apache-2.0
"""Times the items by priority into bench.jsonl, each by the benchmark's own runner.

LIST is time or compile; or peers or warm, which have other libraries and torch.compile write their code, and time
nothing. The number of the first item and parts of names follow: `python -m device.timed time 0 nt_xent`.
"""

from __future__ import annotations

import subprocess
import sys

import torch

from device import files
from device.plan import COMPILE, PEERS, TIME, Item, chosen
from device.rehearsal import REHEARSED, device, distinct, dtype, lost, workload
from sslkernels.bench import device_timing, judge, runner
from sslkernels.bench.gate import differentiable, slopes
from sslkernels.bench.journal import Journal
from sslkernels.bench.providers import PROVIDERS, Ours, Provider, chosen_backend
from sslkernels.bench.records import Record


def main(what: str, first: int, texts: list[str]) -> int:
    here = device()
    items = distinct(chosen({"time": TIME, "peers": PEERS}.get(what, COMPILE), texts))
    if what in ("peers", "warm"):
        return warm(items, here)
    journal, code = Journal(files.out() / "bench.jsonl"), 0
    for place, item in enumerate(items[first:], first + 1):
        print(item, flush=True)
        try:
            code |= measured(item, here, journal)
        except Exception as error:  # the next item may still be timed
            print(f"{item} broke: {type(error).__name__}: {error}", flush=True)
            code = 1
        if lost():
            command = [sys.executable, "-m", "device.timed", what, str(place), *texts]
            return subprocess.run(command).returncode or 1
        if here.type == "cuda":
            torch.cuda.empty_cache()  # dense providers took most of it
    if what == "time":
        add_kernels(items, here, journal)
    return code


def measured(item: Item, here: torch.device, journal: Journal) -> bool:
    """Add the records of an item to the journal. True where one of ours was wrong or broke."""
    torch.set_float32_matmul_precision(item.precision)
    broken = wrong_in_smoke()
    able = [each for each in providers(item, here) if (*item.key, each.name) not in broken]
    if len(able) < len(providers(item, here)):
        print(f"{item}: what failed its smoke is not timed", flush=True)
    if not any(isinstance(each, Ours) for each in able):
        return True
    records = runner.run([workload(item)], [dtype(item)], able, here, item.seconds, lambda _: None)
    journal.append({**record, "item": str(item)} for record in records)
    return any(r["status"] == "failed" and isinstance(PROVIDERS[r["provider"]], Ours) for r in records)


def providers(item: Item, here: torch.device) -> list[Provider]:
    """The providers that the item names. The library's own choice may be one of them by name, too."""
    ours = chosen_backend(workload(item), here, getattr(torch, dtype(item)))
    return [PROVIDERS[name] for name in dict.fromkeys(ours if name == "ours" else name for name in item.providers)]


def wrong_in_smoke() -> set[tuple[str, ...]]:
    """Op, dtype, precision and backend of what came out wrong, by the last line on each item.

    A wait for the device, or a graph that cannot be captured, makes a line red too, but its time is still of use.
    """
    last = {(line.get("item"), line.get("backend")): line for line in files.lines(files.out() / "smoke.jsonl")}
    found = [line for line in last.values() if "item" in line]
    wrong = [x for x in found if any(x["checks"].get(name, "ok") != "ok" for name in ("value", "stream"))]
    return {(x["op"], x["dtype"], x["precision"], x["backend"]) for x in wrong}


def add_kernels(items: list[Item], here: torch.device, journal: Journal) -> None:
    """Add the records of ours that miss a goal once more, with the seconds of each kernel.

    This comes last, since the profiler slows every launch from then on.
    """
    last = {(x.get("item"), x["provider"]): x for x in journal.records()}
    for place, item in enumerate(items):
        trial = {name: record for (told, name), record in last.items() if told == str(item)}
        mine = judge.ours(trial)
        if mine is not None and (misses(item, mine, trial) or (REHEARSED and place == 0)):
            try:
                journal.append([{**mine, "kernels": split(item, here)}])
            except Exception as error:  # without a profiler the times stand alone
                print(f"{item} could not be profiled: {type(error).__name__}: {error}", flush=True)


def misses(item: Item, mine: Record, trial: judge.Trial) -> bool:
    targets = workload(item).targets_for(item.dtype, "cuda")
    return any(judge.judge(target, trial, mine)[2] is False for target in targets)


def split(item: Item, here: torch.device) -> dict[str, float]:
    torch.set_float32_matmul_precision(item.precision)
    made, kind = workload(item), getattr(torch, dtype(item))
    inputs = made.inputs(kind, here)
    return device_timing.kernels(Ours(chosen_backend(made, here, kind)).step(made, inputs), inputs)


def warm(items: list[Item], here: torch.device) -> int:
    """Call each provider once that writes code of its own, so that the code is in its cache when it is timed."""
    for item in items:
        torch.set_float32_matmul_precision(item.precision)
        made, kind = workload(item), getattr(torch, dtype(item))
        for name in item.providers:
            if name in ("ours", "eager") or PROVIDERS[name].why_not(made, here, kind) is not None:
                continue
            print(f"{name} writes its code for {item}", flush=True)
            inputs = PROVIDERS[name].task(made, made.inputs(kind, here)).inputs
            slopes(PROVIDERS[name].step(made, inputs)(), list(differentiable(inputs).values()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
