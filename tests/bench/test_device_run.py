# SPDX-License-Identifier: Apache-2.0
"""benchmarks/device/run: steps that hang, crash or are killed leave valid files; the rehearsal walks through all."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from sslkernels.bench import device_timing
from sslkernels.bench.cases import CASES
from sslkernels.bench.records import fault, read
from sslkernels.bench.workloads import Workload

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
PARTS = ("boxes", "build", "files", "gpu_tests", "plan", "rehearsal", "smoke", "stand_in", "summary", "timed")


@pytest.fixture(scope="module")
def device():
    """The parts of the script, as a namespace."""
    if not (ROOT / "benchmarks" / "device" / "run").is_file():
        pytest.skip("the repository's benchmark scripts are not here")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield type("Parts", (), {name: importlib.import_module(f"device.{name}") for name in PARTS})
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture
def out(tmp_path, monkeypatch):
    """The folder of the results."""
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"SSLKERNELS_DEVICE_{name.upper()}", str(tmp_path / name))
    return tmp_path / "out"


@pytest.fixture
def rehearsed(device, monkeypatch):
    """The parts as in a rehearsal: tiny shapes, and a stand-in for torch.cuda."""
    stand_in = device.stand_in.StandIn()
    monkeypatch.setattr(device.rehearsal, "REHEARSED", True)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    for name, value in (("cuda", stand_in), ("now", stand_in.now), ("buffer", stand_in.buffer)):
        monkeypatch.setattr(device_timing, name, value)
    return device


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(process: int) -> bool:
    """True where a process of that number runs. One that ended and was not asked after counts as gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(process: int) -> bool:
    end = time.monotonic() + 10
    while alive(process) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(process)


# The time boxes


def test_a_step_that_hangs_is_killed_with_everything_that_it_began(device, out):
    """It ignores SIGTERM, and its child is in its group."""
    hangs = python(
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    ends = python("print('done')")
    log = out / "x.log"
    boxes = device.boxes.Boxes(60)
    begun = time.monotonic()
    outcome = boxes.run(device.boxes.Step("hangs", 1.0, [hangs, ends], log))
    assert time.monotonic() - begun < 1 + device.plan.GRACE + 3
    assert (outcome.state, outcome.why) == ("out of time", "1 of 2 processes were killed")
    said = log.read_text().split()
    assert said[:2] == ["==", "hangs"] and "done" in said
    assert gone(next(int(word) for word in said if word.isdecimal()))


def test_a_rehearsal_refuses_a_package_of_another_checkout(device, out, monkeypatch, capsys, tmp_path):
    """All later steps would fail on it, and none would say why."""
    package = tmp_path / "sslkernels"
    shutil.copytree(ROOT / "sslkernels", package, ignore=lambda _, names: [n for n in names if n.endswith(".so")])
    monkeypatch.setenv("SSLKERNELS_DEVICE_REHEARSAL", "1")
    spec = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr(device.build.importlib.util, "find_spec", lambda name: spec)
    assert device.build.main() == 0 and "taken as it is" in capsys.readouterr().out
    (package / "cli.py").write_text("")
    assert device.build.main() == 1
    said = capsys.readouterr().out
    assert f"{package} is not the package of this checkout; run `pip install {ROOT}`" in said


@pytest.mark.parametrize(
    "code, why",
    [("import os; os.abort()", "killed by SIGABRT"), ("raise SystemExit(3)", "exit code 3"), ("1 / 0", "exit code 1")],
)
def test_a_step_that_crashes_is_told_and_the_next_one_runs(code, why, device, out):
    boxes, done = device.boxes.Boxes(60), []
    log = out / "x.log"
    crashed = boxes.run(device.boxes.Step("crashes", 20.0, [python(code)], log, after=lambda: done.append(1)))
    assert (crashed.state, crashed.why) == ("failed", why) and done == [1]
    assert boxes.run(device.boxes.Step("next", 20.0, [python("print('next ran')")], log)).state == "ok"
    assert "next ran" in log.read_text()


def test_steps_that_cannot_run_are_told(device, out):
    Step, log = device.boxes.Step, out / "x.log"
    absent = device.boxes.Boxes(60).run(Step("x", 9.0, [["no-such-tool"]], log, tool="no-such-tool"))
    assert (absent.state, absent.why) == ("absent", "no-such-tool is not here")
    late = device.boxes.Boxes(1).run(Step("x", 9.0, [python("1")], log))
    assert (late.state, late.why) == ("not begun", "the time was up")
    damaged = device.boxes.Boxes(60).run(Step("x", 9.0, [python("1")], log, after=lambda: json.loads("{")))
    assert damaged.state == "failed" and damaged.why.startswith("its files could not be read")


def test_the_whole_has_less_time_than_its_steps(device, out, monkeypatch):
    monkeypatch.setattr(device.boxes, "LEAST", 0.1)
    boxes = device.boxes.Boxes(0.5)
    step = device.boxes.Step("x", 60.0, [python("import time; time.sleep(60)")], out / "x.log")
    assert boxes.run(step).state == "out of time" and boxes.left > -3
    assert device.plan.SECONDS == 480 and max(device.plan.BOXES.values()) < 480 - device.plan.KEPT


# The files


def test_lines_that_a_kill_tore_are_passed_over(device, out):
    path = out / "x.jsonl"
    device.files.append_json(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2')
    assert device.files.lines(path) == [{"a": 1}] and device.files.lines(out / "none") == []
    assert device.files.update(out / "x.json", a=1) == {"a": 1}
    assert device.files.update(out / "x.json", b=[2]) == {"a": 1, "b": [2]} == json.loads((out / "x.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["x.json", "x.jsonl"]


def test_tests_that_did_not_end_are_errors(device, out):
    folder = out.parent / "work" / "tests"
    folder.mkdir()
    told = [
        {"test": "t.py::a", "outcome": "unfinished", "why": "it began and did not end"},
        {"test": "t.py::b", "outcome": "unfinished", "why": "it did not begin"},
        {"test": "t.py::b", "outcome": "passed", "seconds": 1.5},
        {"test": "t.py::c", "outcome": "failed", "why": "assert <1> & \x1b[31m\x00", "seconds": 1},
        {"test": "t.py::c", "outcome": "passed"},
        {"test": "t.py::d", "outcome": "skipped", "why": "no"},
    ]
    (folder / "0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told) + '{"test": "t')
    device.gpu_tests.write()
    suite = ElementTree.parse(out / "junit.xml").getroot()[0]
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    found = {case.get("name"): [kind.tag for kind in case] for case in suite}
    assert found == {"a": ["error"], "b": [], "c": ["failure"], "d": ["skipped"]}
    assert list(device.summary._tests())[0] == (
        "pytest -m gpu: 1 passed, 1 failed, 1 unfinished or in error, 1 skipped"
    )  # fmt: skip


GPU_TESTS = """
import os, pytest, time
pytestmark = pytest.mark.gpu
@pytest.mark.parametrize("x", range(4))
def test_passes(x): pass
def test_fails(): assert 1 == 2
def test_crashes(): os.abort()
"""


@pytest.mark.slow
def test_each_part_of_the_tests_writes_down_what_it_ran(device, out, tmp_path):
    """Without pytest-xdist and pytest-timeout. One part is killed by a crash, and the others are not."""
    (tmp_path / "test_x.py").write_text(GPU_TESTS)
    commands = device.gpu_tests.commands(3)
    assert all(any(Path(word).name == "test_ema_gpu.py" for word in command) for command in commands)
    processes = []
    for command in commands:
        mine = [word for word in command if not word.endswith("_gpu.py")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])}
        processes.append(subprocess.Popen(
            [*mine, str(tmp_path / "test_x.py")], env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL
        ))  # fmt: skip
    assert sorted(process.wait(60) for process in processes) == [-signal.SIGABRT, 0, 1]
    outcomes = {name.partition("::")[2]: found["outcome"] for name, found in device.gpu_tests.results().items()}
    passed = {f"test_passes[{x}]": "passed" for x in range(4)}
    assert outcomes == {**passed, "test_fails": "failed", "test_crashes": "unfinished"}


def test_what_ncu_printed_beside_its_table_is_left_out(device, out, tmp_path):
    loader = importlib.machinery.SourceFileLoader("device_run", str(ROOT / "benchmarks" / "device" / "run"))
    run = importlib.util.module_from_spec(importlib.util.spec_from_loader("device_run", loader))
    loader.exec_module(run)
    (tmp_path / "ncu.txt").write_text('==PROF== Connected\n"ID","Name"\n"0","a, b"\n==PROF== Done\n')
    run._csv(tmp_path / "ncu.txt", out / "ncu.csv")
    assert (out / "ncu.csv").read_text() == '"ID","Name"\n"0","a, b"\n'
    run._csv(tmp_path / "none", out / "ncu.csv")
    assert "left no table" in (out / "ncu.csv").read_text()


# The plan


def test_names_after_only_are_steps_or_parts_of_items(device):
    plan = device.plan
    assert plan.names(["smoke", "nt_xent-4096", "ncu"]) == (["smoke", "ncu"], ["nt_xent-4096"])
    assert [str(item) for item in plan.chosen(plan.TIME, ["nt_xent-4096"])] == [
        "nt_xent-4096x128 bfloat16", "nt_xent-4096x128 float32",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"--only has 'tokenz'; pass steps \(env, build"):
        plan.names(["tokenz"])


def test_every_item_is_an_op_of_the_benchmark_with_its_dimensions(device):
    plan = device.plan
    for item in (*plan.SMOKE, *plan.TIME, *plan.COMPILE, *plan.PROFILED):
        assert len(item.shape) == len(CASES[item.op].dimensions) and item.seconds <= 1
        Workload(item.op, item.shape).cost(torch.bfloat16)
    assert {item.op for item in plan.SMOKE} == set(CASES), "every op has a place in the smoke gate"
    assert {item.key for item in (*plan.TIME, *plan.COMPILE)} <= {item.key for item in plan.SMOKE}


def test_every_target_of_a_gpu_can_be_judged(device):
    """Each workload that has one of its own is timed, beside the libraries that it names."""
    from sslkernels.bench.workloads import WORKLOADS

    timed: dict[tuple, set[str]] = {}
    for item in device.plan.TIME:
        timed.setdefault((item.op, item.shape, item.dtype), set()).update(item.providers)
    for workload in WORKLOADS:
        for dtype in ("float32", "bfloat16"):
            for target in workload.targets_for(dtype, "cuda"):
                if target.kind in ("seconds", "host", "memeff", "siglip"):
                    assert target.kind in {*timed[workload.op, workload.shape, dtype], "seconds", "host"}


# Smoke and timing


def test_the_smoke_of_an_op_that_is_right_is_green(rehearsed):
    for op in ("nt_xent", "gather_tokens", "ema_update"):
        item = next(item for item in rehearsed.plan.SMOKE if item.op == op)
        found = rehearsed.smoke._checked(item, "cpu", CPU)
        assert found["checks"] == dict.fromkeys(("value", "stream", "sync", "graph"), "ok"), op


def test_the_smoke_finds_a_wrong_value_a_break_and_a_replay_of_other_bits(rehearsed, monkeypatch):
    item, case = rehearsed.plan.SMOKE[0], CASES["nt_xent"]

    def smoke(ours):
        monkeypatch.setitem(CASES, "nt_xent", dataclasses.replace(case, ours=ours))
        return rehearsed.smoke._checked(item, "cpu", CPU)["checks"]

    found = smoke(lambda **given: 1.001 * case.ours(**given))
    assert "the loss is off by" in found["value"] and "the loss is off by" in found["stream"] and found["graph"] == "ok"

    def breaks(**given):
        raise RuntimeError("no such kernel\nand more")

    assert smoke(breaks) == {"value": "RuntimeError: no such kernel"}
    calls = iter(range(10**6))
    found = smoke(lambda **given: case.ours(**given) + 1e-9 * torch.tensor(float(next(calls))))
    assert found["value"] == found["sync"] == "ok" and found["graph"] == "ok", "1e-9 is no bit of it"
    found = smoke(lambda **given: case.ours(**given) + 1e-6 * torch.tensor(float(next(calls) % 3)))
    assert found["value"] == "ok" and "of the replay differs by" in found["graph"]

    def waits(**given):
        device_timing.cuda.synchronize()
        return case.ours(**given)

    assert "when stream is capturing" in smoke(waits)["graph"]


def test_what_is_wrong_in_the_smoke_is_not_timed_on_that_backend(rehearsed, out):
    files, timed = rehearsed.files, rehearsed.timed
    item = next(item for item in rehearsed.plan.TIME if item.op == "gather_tokens")
    line = {"op": item.op, "dtype": item.dtype, "precision": "highest", "item": "x", "ok": False}
    green = {"value": "ok", "stream": "ok"}
    for backend, checks in (
        ("triton", green | {"value": "the loss is off"}),
        ("cuda", green | {"graph": "it differs"}),
        ("cpu", {"value": "RuntimeError: x"}),
    ):
        files.append_json(out / "smoke.jsonl", {**line, "backend": backend, "checks": checks})
    assert {key[-1] for key in timed.wrong_in_smoke()} == {"triton", "cpu"}
    files.append_json(out / "smoke.jsonl", {**line, "backend": "triton", "checks": green, "ok": True})
    assert {key[-1] for key in timed.wrong_in_smoke()} == {"cpu"}, "the last word counts"


def on_an_h200(provider: str, seconds: float, date: str, **more: object) -> dict:
    spread = {"median": seconds, "p20": seconds, "p80": seconds}
    return {
        "format": 1, "date": f"2026-01-01T00:00:{date}Z", "commit": None, "versions": {"torch": "2.11.0"}, "threads": 1,
        "device": {"type": "cuda", "name": "NVIDIA H200", "isa": "avx512"}, "family": "similarity", "op": "clip_loss",
        "workload": "clip_loss-65536x512", "shape": [65536, 512], "dtype": "bfloat16", "provider": provider,
        "chosen": provider == "triton", "status": "ok", "why": None, "memory_bytes": 10**9,
        "seconds": {"fwd": spread, "bwd": spread, "fwd+bwd": spread}, "host_seconds": spread, "graph_seconds": None,
        "floor": {"fraction": 0.5, "bound": "operations"}, "item": "clip_loss-65536x512 bfloat16", **more,
    }  # fmt: skip


def test_the_table_says_which_goals_are_met_and_where_the_time_went(device, out, monkeypatch):
    monkeypatch.setattr(device.summary, "REHEARSED", False)
    for record in (
        on_an_h200("triton", 0.036, "01"),
        on_an_h200("eager", 0.09, "01"),
        on_an_h200("triton", 0.04, "02"),
        on_an_h200("siglip", 0.02, "02"),
        on_an_h200("triton", 0.04, "02", kernels={"gradients_kernel": 0.02}),
    ):
        assert fault(record) is None
        device.files.append_json(out / "bench.jsonl", record)
    told = [" ".join(line.split()) for line in device.summary._goals()]
    name = "clip_loss-65536x512 bfloat16"
    assert told[:7] == [
        "goal wanted measured",
        f"{name} ≥ 1x eager 2.50x met",
        f"{name} ≤ 34.0 ms 40.0 ms NOT MET",
        f"{name} ≤ 1.40 GiB 954 MiB met",
        f"{name} ≥ 1x memeff not measured",
        f"{name} ≥ 1x siglip 0.50x NOT MET",
        "20.0 ms gradients_kernel",
    ]  # fmt: skip
    assert "clip_loss-65536x768 bfloat16 ≤ 50.0 ms not measured" in told
    rows = [" ".join(line.split()) for line in device.summary._times()]
    assert rows[1] == f"{name} triton 36.0 ms 36.0 ms – 954 MiB 50%" and len(rows) == 5


def test_where_a_kernel_broke_the_device_a_new_process_goes_on(rehearsed, out, monkeypatch):
    """It begins with the next item, and the step counts as failed."""
    begun = []

    def run(command):
        begun.append(command[2:])
        return subprocess.CompletedProcess(command, 0)

    def synchronize():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(rehearsed.timed, "device", lambda: CPU)
    monkeypatch.setattr(rehearsed.smoke, "device", lambda: CPU)
    monkeypatch.setattr(rehearsed.timed, "measured", lambda *_: 1 / 0)
    monkeypatch.setattr(rehearsed.smoke, "_checked", lambda *_: {"op": "x", "checks": {"value": "it broke"}})
    monkeypatch.setattr(device_timing.cuda, "synchronize", synchronize)
    assert rehearsed.timed.main("time", 1, ["nt_xent", "gather"]) == 1
    assert rehearsed.smoke.main(1, 2, 0, ["nt_xent", "gather"]) == 1
    assert begun == [
        ["device.timed", "time", "2", "nt_xent", "gather"], ["device.smoke", "1", "2", "1", "nt_xent", "gather"],
    ]  # fmt: skip


# The whole script


@pytest.fixture
def checkout(tmp_path, device):
    """A clone of the repository, with what is not committed yet."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    there = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(there)], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "-mo", "--exclude-standard", "benchmarks", "tests"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    for name in changed:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes((ROOT / name).read_bytes())
        (there / name).chmod((ROOT / name).stat().st_mode)
    return there


def begin(checkout: Path, *arguments: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key not in ("OUT", "TRITON_INTERPRET")}
    return subprocess.Popen(
        [sys.executable, str(checkout / "benchmarks" / "device" / "run"), "--rehearse", *arguments],
        cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def check_files(out: Path, names: tuple[str, ...]) -> dict[str, object]:
    """Each file is one that may come back, and valid. Return what env.json says."""
    assert {path.name for path in out.iterdir()} <= set(names)
    if (out / "bench.jsonl").exists():
        assert not any(map(fault, read(out / "bench.jsonl")))
    for line in (out / "smoke.jsonl").read_text().splitlines() if (out / "smoke.jsonl").exists() else ():
        assert set(json.loads(line)) >= {"op", "checks", "ok"}
    if (out / "junit.xml").exists():
        ElementTree.parse(out / "junit.xml")
    return json.loads((out / "env.json").read_text())


@pytest.mark.slow
def test_the_rehearsal_walks_through_every_step_from_a_plain_checkout(checkout, device):
    process = begin(checkout)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    out = checkout / "build" / "device" / "out"
    known = check_files(out, device.files.NAMES)
    assert {path.name for path in out.iterdir()} == set(device.files.NAMES)
    assert [(step["name"], step["state"]) for step in known["steps"]] == [(name, "ok") for name in device.plan.BOXES]
    assert known["peaks"] and known["versions"]["torch"] and known["clocks"]["measured"]
    smoke = device.files.lines(out / "smoke.jsonl")
    assert {line["op"] for line in smoke if "loss" not in line} == {*CASES, "torch.addmm"}
    assert sum("loss" in line for line in smoke) > 2
    assert {line["backend"] for line in smoke if "backend" in line} == {"cpu", "triton"}
    assert all(line["ok"] for line in smoke), smoke
    timed = read(out / "bench.jsonl")
    assert {record["op"] for record in timed} == {item.op for item in device.plan.TIME}
    ok = [record for record in timed if record["status"] == "ok"]
    assert all(record["host_seconds"] and record["graph_seconds"] and record["precision"] for record in ok)
    assert {"compile", "eager"} <= {record["provider"] for record in ok}
    assert any("kernels" in record for record in ok)
    skipped = {record["provider"] for record in timed if record["status"] == "skipped"}
    assert skipped == {"memeff", "siglip"}
    for words in ("REHEARSAL", "lines are all green", "pytest -m gpu:", "goal", "≤ 34.0 ms", "rehearsed"):
        assert words in said, words
    assert "memeff is absent" in (out / "build.log").read_text()
    status = subprocess.run(["git", "status", "--short"], cwd=checkout, capture_output=True, text=True).stdout
    assert "build" not in status, "what it makes is ignored by git"

    process = begin(checkout, "--only", "time", "gather")
    said, _ = process.communicate(timeout=600)
    again = read(out / "bench.jsonl")
    assert process.returncode == 0 and again[: len(timed)] == timed, said
    assert {record["op"] for record in again[len(timed) :]} == {"gather_tokens"}
    assert begin(checkout, "--only", "tokenz").wait(60) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent, moment",
    [(signal.SIGTERM, "smoke.jsonl"), (signal.SIGINT, "bench.jsonl"), (signal.SIGKILL, "bench.jsonl")],
)
def test_a_kill_in_the_middle_leaves_valid_files_and_no_process(sent, moment, checkout, device, tmp_path):
    out = tmp_path / "out"
    process = begin(checkout, "--out", str(out), "--only", "env", "smoke", "time", "nt_xent", "gather")
    try:
        end = time.monotonic() + 300
        while not (out / moment).exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None, process.stdout.read()
        parts = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
        process.send_signal(sent)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert parts and all(gone(int(part)) for part in parts)
    known = check_files(out, device.files.NAMES)
    assert known["steps"][0]["name"] == "env" and (out / moment).read_text().endswith("\n")
    if sent != signal.SIGKILL:
        assert process.returncode == 130 and "stopped; this is what there is so far." in said and "goal" in said
