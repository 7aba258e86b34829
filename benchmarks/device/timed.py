# SPDX-License-Identifier: Apache-2.0
"""Times the items by priority into bench.jsonl, each with the benchmark's own runner: `python -m device.timed LIST`.

LIST is time, compile, or warm, which has torch.compile write its code and times nothing. Texts of names may follow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch

from device import files
from device.plan import COMPILE, TIME, Item, chosen
from device.rehearsal import device, dtype, workload
from sslkernels.bench import device_timing, judge, runner
from sslkernels.bench.gate import slopes
from sslkernels.bench.journal import Journal
from sslkernels.bench.providers import PROVIDERS, Ours, Provider, chosen_backend
from sslkernels.bench.records import Record


def main(what: str, texts: list[str]) -> int:
    here = device()
    items = chosen(TIME if what == "time" else COMPILE, texts)
    if what == "warm":
        return warm(items, here)
    broken = failed_in_smoke()
    journal = Journal(files.out() / "bench.jsonl")
    code, missed = 0, []
    for item in items:
        if item.key in broken:
            print(f"{item} is not timed: its smoke failed", flush=True)
            code = 1
            continue
        print(item, flush=True)
        torch.set_float32_matmul_precision(item.precision)
        made = workload(item)
        records = runner.run([made], [dtype(item)], providers(item, here), here, item.seconds, lambda _: None)
        journal.append({**record, "item": str(item)} for record in records)
        code |= any(r["status"] == "failed" and isinstance(PROVIDERS[r["provider"]], Ours) for r in records)
        if what == "time":
            missed += [(item, record) for record in records if record["chosen"] and misses(item, records)]
        release(here)
    for item, record in missed:  # the profiler slows launches from then on, so it comes last
        journal.append([{**record, "item": str(item), "kernels": split(item, here)}])
    return code


def providers(item: Item, here: torch.device) -> list[Provider]:
    """The providers that the item names. The library's own choice may be one of them by name, too."""
    ours = chosen_backend(workload(item), here, getattr(torch, dtype(item)))
    return [PROVIDERS[name] for name in dict.fromkeys(ours if name == "ours" else name for name in item.providers)]


def failed_in_smoke() -> set[tuple[str, str, str]]:
    """What the last word of the smoke on any backend says no to."""
    last = {(line.get("item"), line.get("backend")): line for line in files.lines(files.out() / "smoke.jsonl")}
    return {(x["op"], x["dtype"], x["precision"]) for x in last.values() if not x["ok"] and "item" in x}


def misses(item: Item, records: Iterable[Record]) -> bool:
    """True where a target of a GPU is missed. Then the record gets the seconds of each kernel."""
    trial = {record["provider"]: record for record in records}
    mine = judge.ours(trial)
    targets = workload(item).targets_for(item.dtype, "cuda")
    return mine is not None and any(judge.judge(target, trial, mine)[2] is False for target in targets)


def split(item: Item, here: torch.device) -> dict[str, float]:
    torch.set_float32_matmul_precision(item.precision)
    made, kind = workload(item), getattr(torch, dtype(item))
    inputs = made.inputs(kind, here)
    return device_timing.kernels(Ours(chosen_backend(made, here, kind)).step(made, inputs), inputs)


def warm(items: list[Item], here: torch.device) -> int:
    for item in items:
        print(f"torch.compile writes {item}", flush=True)
        torch.set_float32_matmul_precision(item.precision)
        made, compiled = workload(item), PROVIDERS["compile"]
        kind = getattr(torch, dtype(item))
        if compiled.why_not(made, here, kind) is None:
            inputs = made.inputs(kind, here)
            wanted = [x for x in inputs.values() if isinstance(x, torch.Tensor) and x.requires_grad]
            slopes(compiled.step(made, inputs)(), wanted)
        release(here)
    return 0


def release(here: torch.device) -> None:
    """Give back what dense providers took, which is most of the memory."""
    if here.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
