# SPDX-License-Identifier: Apache-2.0
"""A run that is killed or interrupted leaves what is done, and the same command goes on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sslkernels.bench import control, runner, timing, workloads
from sslkernels.bench.journal import Journal
from sslkernels.bench.providers import Eager, Ours
from sslkernels.bench.records import fault, read
from sslkernels.cli import main

CPU = torch.device("cpu")
CASES = [workloads.Workload("nt_xent", (33, 17)), workloads.Workload("nt_xent", (35, 17))]
CHOSEN = [Ours("cpu"), Eager()]
# Each case is told on a line of its own, and waits for a newline; so the test knows where the process is.
ONLY = ["--only", "nt_xent", "--only", "clip", "--providers", "cpu,eager"]
RUN = f"""
import sys
ONLY = {ONLY}
from sslkernels.bench import runner
from sslkernels.cli import main
runner._peaks = lambda dtypes, *_: (1e9, dict.fromkeys(dtypes, (1e9, "torch.mm")))
case, count = runner._case, 0
def waits(*given):
    global count
    count += 1
    if count == 3:
        print("third", flush=True)
        sys.stdin.readline()
    return case(*given)
runner._case = waits
sys.exit(main(["bench", "run", "similarity", "--quick", *ONLY, "--out", "out.jsonl"]))
"""


@pytest.fixture
def known_peaks(monkeypatch):
    monkeypatch.setattr(runner, "_peaks", lambda *_: (1e9, {"float32": (1e9, "torch.mm"), "bfloat16": (1e9, "x")}))
    monkeypatch.setattr(control, "_seconds", lambda *_: 1.0)
    monkeypatch.setattr(timing, "step_memory", lambda *_: 1)


def test_a_killed_run_loses_one_case_and_the_same_command_goes_on(tmp_path, known_peaks, monkeypatch, capsys):
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        while process.stdout.readline() not in ("third\n", ""):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.part"]
    kept = read(tmp_path / "out.jsonl.part")
    assert len(kept) == 4 and not any(map(fault, kept)) and {r["dtype"] for r in kept} == {"float32", "bfloat16"}
    monkeypatch.chdir(tmp_path)
    # The same command finds the same settings, which other tests of this process may have changed.
    environment_of, same = runner.environment, ("threads", "precision", "allocator")
    settings = {name: kept[0][name] for name in same}
    monkeypatch.setattr(runner, "environment", lambda device: {**environment_of(device), **settings})
    arguments = ["bench", "run", "similarity", "--quick", *ONLY, "--out", "out.jsonl"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "out.jsonl.part has 4 records of a run that was stopped: this one goes on" in told
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    done = read(tmp_path / "out.jsonl")
    assert len(done) == 8, "two ops, two dtypes, two providers"
    assert [r["seconds"] for r in done[:4]] == [r["seconds"] for r in kept], "these were not measured again"


def test_an_interrupt_says_what_is_there(known_peaks, tmp_path, monkeypatch, capsys):
    case, count = runner._case, iter(range(10))

    def interrupted(*given):
        if next(count) == 1:
            raise KeyboardInterrupt
        return case(*given)

    monkeypatch.setattr(runner, "_case", interrupted)
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "run", "nt_xent", "--quick", "--providers", "cpu", "--out", "out.jsonl"]) == 130
    said = capsys.readouterr().err
    assert "interrupted; 1 records are in out.jsonl.part, and the same command with --out out.jsonl goes on" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.part"]


def test_a_case_of_another_machine_commit_or_provider_is_measured_again(known_peaks, tmp_path, monkeypatch):
    case, calls = runner._case, []
    monkeypatch.setattr(runner, "_case", lambda *given: calls.append(1) or case(*given))

    def measured(journal, providers=CHOSEN[:1]):
        calls.clear()
        return runner.run(CASES, ["float32"], providers, CPU, 0.001, lambda _: None, journal), len(calls)

    journal = Journal(tmp_path / "a")
    first, count = measured(journal)
    assert count == 2 and [r["workload"] for r in first] == [r["workload"] for r in journal.records()]
    again, count = measured(journal)
    assert count == 0 and [r["date"] for r in again] == [r["date"] for r in first]
    assert measured(journal, CHOSEN)[1] == 2
    for field, value in (("commit", "0" * 40), ("threads", 77), ("precision", {"float32_matmul": "high"})):
        other = Journal(tmp_path / field)
        other.append({**record, field: value} for record in first)
        assert measured(other)[1] == 2


def test_the_last_floor_knows_the_rates_of_all_cases(known_peaks, tmp_path):
    journal = Journal(tmp_path / "a")
    found = runner.run(CASES, ["float32"], CHOSEN, CPU, 0.01, lambda _: None, journal)
    best = max(r["floor"]["operations"] / r["seconds"]["fwd+bwd"]["median"] for r in found if r["provider"] == "cpu")
    assert {r["floor"]["peak_operations_per_second"] for r in found} == {max(best, 1e9)}


def test_a_torn_line_is_cut_before_the_next(tmp_path):
    journal, record = Journal(tmp_path / "a"), {"format": 1}
    journal.append([record])
    whole = journal.path.read_bytes()
    for torn in (b'{"for', b"\xff", b"{}"):
        journal.path.write_bytes(whole + torn)
        journal.append([record])
        assert journal.path.read_bytes() == 2 * whole
    journal.path.write_bytes(b'{"form')
    assert journal.records() == [] and Journal(tmp_path / "none").records() == []
    journal.append([record, record])
    assert journal.path.read_bytes() == 2 * whole


def test_what_a_kill_left_is_read(known_peaks, tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    found = runner.run(CASES[:1], ["float32"], CHOSEN, CPU, 0.01, lambda _: None, journal)
    line = json.dumps(found[0])
    for cut in (1, 200, len(line) - 1):
        path = Path(tmp_path / "torn.jsonl")
        path.write_bytes(journal.path.read_bytes() + line[:cut].encode())
        assert read(path) == found
        assert main(["bench", "compare", str(path), str(path)]) == 0
    path.write_text(line[:100])
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        read(path)


def test_every_case_is_on_the_disk_before_the_next_begins(known_peaks, tmp_path, monkeypatch):
    events, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: events.append("disk") or sync(file))
    runner.run(CASES, ["float32"], CHOSEN, CPU, 0.01,
               lambda text: ":" not in text and events.append(text), Journal(tmp_path / "a"))  # fmt: skip
    assert events == [f"{CASES[0]} float32", "disk", f"{CASES[1]} float32", "disk"]
