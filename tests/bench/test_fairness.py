# SPDX-License-Identifier: Apache-2.0
"""Check that comparisons are fair: peers that are slightly off, the control of a row, and the allocator."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from sslkernels.bench import control, judge, names, page, runner, tables, workloads
from sslkernels.bench.control import settled
from sslkernels.bench.gate import TIMES_PEER, Gate, Truth
from sslkernels.bench.providers import Eager, Ours
from sslkernels.bench.records import fault, load, read, write
from sslkernels.cli import main

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
WORKLOAD = workloads.Workload("nt_xent", (33, 17))


@pytest.fixture
def known_peaks(monkeypatch):
    monkeypatch.setattr(runner, "_peaks", lambda *_: (1e9, {"float32": (1e9, "torch.mm")}))


@pytest.fixture
def still(monkeypatch):
    """Let the control never move."""
    monkeypatch.setattr(control, "_seconds", lambda *_: 1.0)


@pytest.fixture(scope="module")
def publish():
    script = ROOT / "benchmarks" / "publish.py"
    if not script.is_file():
        pytest.skip("the repository's benchmark scripts are not here")
    spec = importlib.util.spec_from_file_location("publish_fairly", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["publish_fairly"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("times, complains, refused", [(0.9, 0, 0), (1.1, 1, 0), (3.9, 1, 0), (4.1, 1, 1)])
def test_a_peer_may_be_off_by_a_little_more(times, complains, refused):
    gate = Gate({"loss": times * 1e-6}, {}, {"loss": 1e-6})
    assert (gate.complaint is not None, gate.refusal is not None) == (bool(complains), bool(refused))
    gate = Gate({"z0": float("nan")}, {}, {"z0": 1e-6})
    assert "gradient of z0" in (gate.complaint or "") and gate.refusal == gate.complaint and TIMES_PEER == 4


@dataclasses.dataclass(frozen=True)
class SlightlyOff(Eager):
    """Its loss is off by twice what is allowed."""

    def step(self, workload, inputs):
        allowed = Truth.of(workload, inputs).gate(super().step(workload, inputs), inputs).allowed["loss"]
        right = super().step(workload, inputs)

        def wrong():
            loss = right()
            return loss + 2 * allowed * loss.detach()

        return wrong


class OursSlightlyOff(Ours):
    def step(self, workload, inputs):
        return SlightlyOff().step(workload, inputs)


def test_a_peer_that_is_slightly_off_is_timed_and_marked_and_ours_is_refused(known_peaks, still, publish, tmp_path):
    chosen = [Ours("cpu"), SlightlyOff("compile"), OursSlightlyOff("reference")]
    mine, peer, wrong = runner.run([WORKLOAD], ["float32"], chosen, CPU, 0.01, lambda _: None)
    assert (mine["status"], mine["off"]) == ("ok", None)
    assert peer["status"] == "ok" and "the loss is off by" in peer["off"] and "seconds" in peer
    assert wrong["status"] == "failed" and "seconds" not in wrong
    assert [fault(record) for record in (mine, peer, wrong)] == [None] * 3
    told = "\n".join(tables.remarks([mine, peer]))
    assert f"† slightly wrong[/]: {WORKLOAD} fp32 compile: the loss is off by" in told
    table = publish._table(workloads.CASES["nt_xent"].family, [mine, peer])
    assert "† |" in table and table.endswith(f"NT-Xent 33×17 fp32 compile: {peer['off']}.\n")
    assert "†" not in publish._table(workloads.CASES["nt_xent"].family, [mine])
    shown = page._numbers([mine, peer])
    assert "† slightly wrong" in shown and f"compile: {peer['off']}" in shown and "†" not in page._numbers([mine])


def test_the_comparison_marks_a_peer_that_is_slightly_off(tmp_path, capsys):
    records = [record for record in _measured() if record["workload"].startswith("masked_mse-")]
    off = "the loss is off by 9.6e-07, allowed is 9.5e-07"
    write(records, tmp_path / "a")
    write([{**r, "off": off} if r["provider"] == "compile" else r for r in records], tmp_path / "b")
    for files, times in ((("a", "a"), 0), (("a", "b"), 1), (("b", "b"), 2)):
        assert main(["bench", "compare", *(str(tmp_path / name) for name in files)]) == 0
        table, *told = capsys.readouterr().out.split("† slightly wrong in ")
        rows = [line for line in table.splitlines() if "masked_mse-" in line]
        assert [line.count("†") for line in rows] == [times * ("compile" in line) for line in rows]
        assert len(told) == 2 * times and all(off in sentence and "compile:" in sentence for sentence in told)


@pytest.mark.parametrize(
    "seconds, attempts, unsettled",
    [
        ([1.0, 1.09], 1, False),
        ([1.09, 1.0], 1, False),
        ([1.0, 1.2, 1.0, 1.0], 2, False),
        ([1.0, 1.2, 1.2, 1.0, 1.0, 0.8], 3, True),
    ],
)
def test_a_row_beside_which_the_control_moved_is_timed_again(seconds, attempts, unsettled):
    coming, taken = iter(seconds), []
    last, fields = settled("eager", lambda: next(coming), lambda: taken.append(0) or len(taken))
    assert last == attempts == len(taken), "the last attempt is kept"
    expected = {"what": "eager", "before": seconds[-2], "after": seconds[-1], "attempts": attempts}
    assert fields.pop("control") == expected
    assert fields == ({"unsettled": True} if unsettled else {}) and next(coming, None) is None


def test_the_control_is_eager_or_else_a_product_and_takes_few_calls(monkeypatch):
    x = torch.ones(2, requires_grad=True)
    for each, calls in ((1.0, 3), (0.05, 6), (0.001, 20)):
        spent = []
        monkeypatch.setattr(control, "once", lambda *_, each=each, spent=spent: spent.append(each) or (each, 0.0))
        monkeypatch.setattr(control, "WARM", 0)
        what, seconds = control.control({"eager": (x.sum, {"x": x})}, torch.float32, CPU)
        assert (what, seconds()) == ("eager", each) and len(spent) == calls + 1
    what, seconds = control.control({"cpu": (x.sum, {"x": x})}, torch.bfloat16, CPU)
    assert what == "torch.mm of 512x512" and seconds() == 0.001


def test_a_row_that_never_settled_is_told_and_not_published(known_peaks, monkeypatch, publish, tmp_path):
    coming = iter([1.0, 2.0] * 3)
    monkeypatch.setattr(control, "_seconds", lambda *_: next(coming))
    records = runner.run([WORKLOAD], ["float32"], [Ours("cpu"), Eager()], CPU, 0.01, lambda _: None)
    assert all(r["unsettled"] and r["control"]["attempts"] == 3 for r in records)
    assert judge.unsettled(records) == [(str(WORKLOAD), "float32")]
    assert "~ NT-Xent 33×17 fp32" in page._numbers(records) and "the control moved" in page._numbers(records)
    assert any("unsettled" in line and "nt_xent-33x17 fp32" in line for line in tables.remarks(records))
    write(records, tmp_path / "similarity.jsonl")
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        publish.main()
    sentence = str(stopped.value)
    assert "beside nt_xent-33x17 fp32;" in sentence and "\n" not in sentence
    assert "bench run similarity --preset small --only nt_xent-33x17 --out" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["similarity.jsonl"], "nothing was written"
    again = [{k: v for k, v in r.items() if k not in ("unsettled", "control", "off")} for r in records]
    write([{**r, "date": "2999-01-01T00:00:00Z"} for r in again], tmp_path / "again.jsonl")
    assert publish.unsettled_sentence(publish.load()) is None, "the later run stands, and may lack the fields"


def test_records_say_what_the_machine_was(known_peaks, still, monkeypatch):
    (record,) = runner.run([WORKLOAD], ["float32"], [Ours("cpu")], CPU, 0.01, lambda _: None)
    assert record["allocator"] in ("glibc", "tcmalloc", "jemalloc") and record["load_average"] >= 0
    assert record["megahertz"] is None or 100 < record["megahertz"] < 10_000
    assert record["workspace_bytes"] >= 0 and fault(record) is None
    assert record["runnable"] is None or 0 <= record["runnable"] < 100_000
    real = Path.read_text
    maps = "7f0-7f1 r-xp 0 00:00 1 /usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4.5.10\n"
    monkeypatch.setattr(Path, "read_text", lambda p, *a, **k: maps if str(p) == "/proc/self/maps" else real(p, *a, **k))
    (record,) = runner.run([WORKLOAD], ["float32"], [Ours("cpu")], CPU, 0.01, lambda _: None)
    assert record["allocator"] == "tcmalloc" and record["memory_bytes"] is None and fault(record) is None


@pytest.mark.parametrize("field, value", [("allocator", "../x"), ("off", "a\nb"), ("unsettled", 1), ("control", [])])
def test_a_damaged_field_is_named(field, value):
    record = dict(_measured()[0])
    assert fault(record) is None and fault({**record, field: value}) == field


def test_an_allocator_has_its_own_table(publish, tmp_path, monkeypatch):
    records = _measured()
    under = [{**r, "allocator": "tcmalloc", "date": "2999-01-01T00:00:00Z"} for r in records]
    write(under, tmp_path / "tokens-tcmalloc.jsonl")
    write(records, tmp_path / "tokens.jsonl")
    found = load([tmp_path / "tokens-tcmalloc.jsonl", tmp_path / "tokens.jsonl"])
    assert list(found.families) == ["tokens", "tokens-tcmalloc"]
    assert len(found.families["tokens"]) == len(found.families["tokens-tcmalloc"])
    assert names.machine(under[0]).endswith(", tcmalloc preloaded") and "preloaded" not in names.machine(records[0])
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    section = publish._family(workloads.FAMILIES["tokens"], publish.load())
    assert section.count("Measured: ") == 2 and section.index("tokens.jsonl") < section.index("tokens-tcmalloc.jsonl")


def _measured():
    path = ROOT / "benchmarks" / "results" / "tokens.jsonl"
    if not path.is_file():
        pytest.skip("the repository's benchmark records are not here")
    return [{**r, "allocator": "glibc"} for r in read(path)]
