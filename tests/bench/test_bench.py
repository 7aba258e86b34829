# SPDX-License-Identifier: Apache-2.0
"""`sslkernels bench` end to end on tiny workloads, and its instruments one by one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sslkernels.bench import gate, judge, runner, tables, timing, workloads
from sslkernels.bench.cases import CASES
from sslkernels.bench.gate import Truth
from sslkernels.bench.providers import PROVIDERS, Eager, Ours
from sslkernels.bench.records import read, write
from sslkernels.cli import main

ENVIRONMENT = {**os.environ, "PYTHONSAFEPATH": "1"}
CPU = torch.device("cpu")


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run a command in this process, in an empty folder: exit code, what was printed, what was complained."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["bench", *arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def known_peaks(monkeypatch):
    peaks = {dtype: (1e9, "torch.mm") for dtype in workloads.DTYPES}
    monkeypatch.setattr(runner, "_peaks", lambda *_: (1e9, dict(peaks)))


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sslkernels", "bench", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("bench")
    chosen = ("--quick", "--only", "64x32", "--providers", "cpu,eager,triton")
    done = bench(folder, "run", "similarity", *chosen, "--out", "out.jsonl")
    assert done.returncode == 0, done.stderr
    return folder / "out.jsonl", done


def test_run_writes_one_record_per_workload_dtype_and_provider(quick):
    path, done = quick
    assert [p.name for p in path.parent.iterdir()] == ["out.jsonl"], "a temporary file was left"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    expected = {
        (str(w), dtype, p)
        for w in workloads.select("similarity", "quick")
        if "64x32" in str(w)
        for dtype in workloads.DTYPES
        for p in ("cpu", "eager", "triton")
    }
    assert {(r["workload"], r["dtype"], r["provider"]) for r in records} == expected
    assert len(records) == len(expected)
    for record in records:
        assert record["format"] == 1 and record["threads"] == torch.get_num_threads()
        assert record["versions"]["torch"] == torch.__version__ and record["device"]["type"] == "cpu"
        assert "commit" in record and record["device"]["isa"]
        if record["provider"] == "triton":
            assert record["status"] == "skipped" and "CUDA" in record["why"] and "seconds" not in record
            continue
        assert record["status"] == "ok" and record["repeats"] >= 3
        assert record["chosen"] == (record["provider"] == "cpu")
        for phase in ("fwd", "bwd", "fwd+bwd"):
            spread = record["seconds"][phase]
            assert 0 < spread["p20"] <= spread["median"] <= spread["p80"]
        assert all(error <= record["gate"]["allowed"][name] for name, error in record["gate"]["error"].items())
        assert 0 < record["floor"]["fraction"] <= 1 or record["provider"] != "cpu"
        assert record["memory_bytes"] >= 0 and record["discarded"] >= 0 and record["page_faults"] >= 0
    assert "nt_xent-64x32" in done.stdout and "[10/10]" in done.stdout and "skipped" in done.stdout


def test_only_and_dtype_select(here, known_peaks, tmp_path):
    chosen = ("--only", "clip", "--dtype", "fp32", "--providers", "cpu")
    code, _, complaint = here("run", "similarity", "--quick", *chosen, "--out", "a")
    assert code == 0, complaint
    (record,) = read(tmp_path / "a")
    assert (record["op"], record["dtype"]) == ("clip_loss", "float32")


def test_an_op_is_selected(here, known_peaks, tmp_path):
    code, _, complaint = here("run", "vicreg", "--quick", "--dtype", "fp32", "--providers", "cpu", "--out", "a")
    assert code == 0, complaint
    assert [record["op"] for record in read(tmp_path / "a")] == ["vicreg"]


def test_all_is_every_family():
    found = workloads.select("all", "quick")
    assert {workload.family for workload in found} == set(workloads.FAMILIES)
    with pytest.raises(ValueError, match="'crossover', in which tokens has no workload"):
        workloads.select("tokens", "crossover")


class Wrong(Eager):
    """Its loss is right and its gradient wrong."""

    def step(self, workload, inputs):
        right = super().step(workload, inputs)

        def wrong():
            loss = right()
            return loss + 0.01 * (loss - loss.detach())

        return wrong


class Broken(Eager):
    def step(self, workload, inputs):
        raise RuntimeError("no such kernel\nand more")


def test_the_gate_refuses_a_wrong_gradient_and_times_the_others(known_peaks):
    workload = workloads.Workload("nt_xent", (33, 17))
    chosen = [Ours("cpu"), Wrong("wrong"), Broken("broken")]
    said = []
    records = runner.run([workload], ["float32"], chosen, CPU, 0.01, said.append)
    ours, wrong, broken = records
    assert ours["status"] == "ok" and "seconds" in ours
    assert wrong["status"] == "failed" and "seconds" not in wrong
    assert "gradient of z0" in wrong["why"] and "not timed" in wrong["why"]
    assert broken["status"] == "failed" and broken["why"] == "broken raised RuntimeError: no such kernel"
    assert not any("timing wrong" in text or "timing broken" in text for text in said)
    assert any(line.startswith("[red]failed") and "wrong" in line for line in tables.remarks(records))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [0, 2])
def test_the_gate_refuses_one_wrong_row_of_a_gradient(dtype, factor):
    workload = workloads.Workload("nt_xent", (2048, 128))
    inputs = workload.inputs(dtype)
    truth = Truth.of(workload, inputs)

    def step(z0: torch.Tensor) -> torch.Tensor:
        return Ours("cpu").step(workload, {**inputs, "z0": z0})()

    def wrong() -> torch.Tensor:
        z0 = inputs["z0"].clone()
        z0.register_hook(lambda slope: slope.index_fill(0, torch.tensor(5), 0) + slope * factor * (rows == 5))
        return step(z0)

    rows = torch.arange(2048)[:, None]
    assert truth.gate(lambda: step(inputs["z0"]), inputs).complaint is None
    assert "z0 is off" in truth.gate(wrong, inputs).complaint


def test_where_nothing_is_right_the_gate_says_nothing_wrong():
    workload = workloads.Workload("nt_xent", (1, 1))  # a sample against its own view: loss and gradients are zero
    inputs = workload.inputs(torch.float32)
    truth = Truth.of(workload, inputs)
    right = Eager().step(workload, inputs)
    assert truth.gate(right, inputs).complaint is None
    assert truth.gate(lambda: right() + 1e-9, inputs).complaint is not None


class InPlace(Eager):
    def step(self, workload, inputs):
        right = super().step(workload, inputs)

        def rude():
            loss = right()
            inputs["z1"].detach().mul_(1.5)  # a normalised loss does not notice
            return loss

        return rude


def test_changed_inputs_are_told_and_the_next_provider_sees_them_as_they_were(known_peaks):
    workload = workloads.Workload("nt_xent", (33, 17))
    rude, eager = runner.run([workload], ["float32"], [InPlace("rude"), Eager()], CPU, 0.01, lambda _: None)
    assert rude["status"] == "failed" and rude["why"] == "rude was not timed: it changed z1 in place."
    assert eager["status"] == "ok"


@pytest.mark.parametrize("scale", [float("nan"), 1 + 1e-4, 0.5])
def test_the_gate_refuses_a_wrong_loss(scale):
    workload = workloads.Workload("clip_loss", (40, 24))
    inputs = workload.inputs(torch.float32)
    truth = Truth.of(workload, inputs)
    right = Eager().step(workload, inputs)
    assert truth.gate(right, inputs).complaint is None
    assert truth.gate(lambda: right() * scale, inputs).complaint is not None


@pytest.mark.parametrize(
    "op, shape",
    [("nt_xent", (37, 16)), ("clip_loss", (37, 16)), ("logsumexp_similarity", (37, 5, 16)), ("vicreg", (16, 37))],
)
def test_truth_is_the_same_in_blocks(op, shape):
    workload = workloads.Workload(op, shape)
    inputs = workload.inputs(torch.float32)
    whole = gate._in_blocks(workload.case.exact, inputs, torch.float64, 1 << 20)
    parts = gate._in_blocks(workload.case.exact, inputs, torch.float64, 100)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-15)


def test_the_largest_are_held_against_float32_and_still_gated(monkeypatch):
    monkeypatch.setattr(gate, "_MOST_EXACT", 1)
    workload = workloads.Workload("nt_xent", (40, 24))
    for dtype in workloads.DTYPES.values():
        inputs = workload.inputs(dtype)
        truth = Truth.of(workload, inputs)
        assert truth.values["loss"].dtype == torch.float32 and truth.eager_errors == {}
        right, wrong = Eager().step(workload, inputs), Wrong("wrong").step(workload, inputs)
        assert truth.gate(right, inputs).complaint is None
        # 1 % of the gradient is below what bfloat16 eager itself gets wrong.
        assert dtype == torch.bfloat16 or truth.gate(wrong, inputs).complaint is not None
        assert truth.gate(lambda step=right: step() * 1.2, inputs).complaint is not None


def test_every_provider_passes_the_gate_on_every_op():
    for workload in [w for family in workloads.FAMILIES for w in workloads.select(family, "quick")]:
        for dtype in workloads.DTYPES.values():
            inputs = workload.inputs(dtype)
            truth = Truth.of(workload, inputs)
            for name in ("cpu", "reference", "eager"):
                gate = truth.gate(PROVIDERS[name].step(workload, inputs), inputs)
                assert gate.complaint is None, f"{name} on {workload} {dtype}: {gate.complaint}"


def test_an_update_is_run_without_a_backward_and_told_as_one(here, known_peaks, tmp_path):
    code, text, complaint = here(
        "run", "ema", "--quick", "--providers", "cpu,triton,reference,eager,dual", "--out", "a.jsonl"
    )
    assert code == 0, complaint
    assert "ema, update:" in text and "fwd" not in text
    records = read(tmp_path / "a.jsonl")
    assert {r["dtype"] for r in records if r["status"] == "ok"} == {"float32", "bfloat16"}
    for record in records:
        assert record["status"] == ("skipped" if record["provider"] in ("triton", "dual") else "ok")
        if record["status"] == "ok":
            assert set(record["seconds"]) == {"fwd", "fwd+bwd"}
            assert record["seconds"]["fwd"] == record["seconds"]["fwd+bwd"]
            assert record["floor"]["bytes"] == 1003 * (12 if record["dtype"] == "float32" else 10)
    assert here("plot", "a.jsonl", "--out", "a.png")[0] == 0
    assert here("compare", "a.jsonl", "a.jsonl")[0] == 0


@pytest.mark.parametrize("place", [0, 6])
def test_the_gate_refuses_a_wrong_update(place, known_peaks, monkeypatch):
    """It is enough that one number of one tensor stood still."""
    right = CASES["ema_update"].eager

    def forgets(targets, sources):
        before = targets[place].clone()
        right(targets, sources)
        targets[place][-1] = before[-1]

    monkeypatch.setitem(CASES, "ema_update", dataclasses.replace(CASES["ema_update"], eager=forgets))
    workload = workloads.Workload("ema_update", (7, 1003))
    for dtype in workloads.DTYPES:
        wrong, ours = runner.run([workload], [dtype], [Eager(), Ours("cpu")], CPU, 0.01, lambda _: None)
        assert wrong["status"] == "failed" and "the update is off by" in wrong["why"]
        assert ours["status"] == "ok", "every provider starts from the same values"


def test_the_gate_starts_an_update_anew():
    workload = workloads.Workload("ema_update", (3, 50))
    inputs = workload.inputs(torch.bfloat16)
    truth = Truth.of(workload, inputs)
    step = Eager().step(workload, inputs)
    for _ in range(3):
        assert truth.gate(step, inputs).complaint is None
        step()
    assert truth.gate(lambda: (step(), step()), inputs).complaint is not None
    assert truth.gate(lambda: inputs["targets"][1].fill_(torch.nan), inputs).complaint is not None


def test_slices_beside_another_process_are_dropped_and_counted():
    clean = timing._Slice([1.0] * 5, [2.0] * 5, page_faults=3, disturbed=False)
    slow = timing._Slice([9.0] * 2, [9.0] * 2, page_faults=9, disturbed=True)
    kept = timing._kept([slow, clean, slow])
    assert (kept.discarded, kept.disturbed, kept.page_faults) == (4, False, 3)
    assert kept.summary()["fwd+bwd"]["median"] == 3.0
    never_quiet = timing._kept([slow, slow])
    assert never_quiet.disturbed and never_quiet.discarded == 0 and len(never_quiet.forward) == 4


def test_waiting_threads_make_a_slice_disturbed(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(timing, "waited_seconds", lambda: next(clock))
    x = torch.ones(3, requires_grad=True)
    assert timing._slice(lambda: x.sum(), [x], CPU, 0.001).disturbed


MEMORY = """
import torch
from sslkernels.bench import timing, workloads
from sslkernels.bench.providers import Ours
for shape in ((64, 128), (16384, 128)):  # the first brings code and thread stacks in
    workload = workloads.Workload("nt_xent", shape)
    inputs = workload.inputs(torch.float32)
    peak = timing.step_memory(Ours("cpu").step(workload, inputs), inputs)
print(peak)
"""


@pytest.mark.slow
def test_nt_xent_of_16384_rows_per_view_stays_under_96_mib(tmp_path):
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() == "None":
        pytest.skip("this system does not tell the resident memory's high-water mark")
    peak = int(done.stdout)
    gradients = 2 * 16384 * 128 * 4
    assert gradients <= peak <= 96 << 20, f"peak above the inputs is {peak / 2**20:.1f} MiB"


def test_the_floor_takes_the_best_rate_and_says_whose():
    def record(provider: str, shape: list[int], seconds: float) -> dict:
        timing = {"fwd+bwd": {"median": seconds}}
        return {"op": "nt_xent", "shape": shape, "dtype": "float32", "provider": provider, "seconds": timing}

    cost = workloads.Workload("nt_xent", (64, 32)).cost(torch.float32)
    records = [record("cpu", [64, 32], 1.0), record("cpu", [64, 32], 2.0), record("eager", [64, 32], 0.5)]
    runner._add_floors(records, 1e30, {"float32": (cost.operations / 4.0, "torch.mm")})
    assert [r["floor"]["fraction"] for r in records] == [1.0, 0.5, 2.0]
    assert records[0]["floor"]["peak_source"] == "cpu on nt_xent-64x32"


def test_compare_prints_ratios_and_fails_past_the_limit(quick, here):
    path = str(quick[0])
    slower = read(quick[0])
    for record in slower:
        if record["provider"] == "cpu":
            record["seconds"]["fwd+bwd"]["median"] *= 2
    write(slower, Path("slower.jsonl"))
    code, table, _ = here("compare", path, path, "--fail-over", "10")
    assert code == 0 and "1.00" in table
    code, table, complaint = here("compare", path, "slower.jsonl", "--fail-over", "10")
    assert code == 1 and "2.00" in table
    timed = [record for record in slower if record["provider"] == "cpu"]
    assert complaint.count(" where it took ") == len(timed) and "nt_xent-64x32 fp32 cpu takes" in complaint
    assert here("compare", path, "slower.jsonl")[0] == 0
    assert here("compare", path, "slower.jsonl", "--fail-over", "101")[0] == 0


def test_compare_fails_where_memory_grew_or_the_gate_was_missed(quick, here):
    before, after = read(quick[0]), read(quick[0])
    larger, wrong = (r for r in after if r["provider"] == "cpu" and r["op"] == "nt_xent")
    larger["memory_bytes"] += 2 * judge.MEMORY_GRAIN
    del wrong["seconds"]
    wrong.update(status="failed", why="cpu is wrong and was not timed.")
    write(after, Path("after.jsonl"))
    code, _, complaint = here("compare", str(quick[0]), "after.jsonl", "--fail-over", "10")
    assert code == 1 and "above its inputs" in complaint and "was not timed" in complaint
    assert len(judge.regressions(before, after, 10)) == 2
    assert judge.regressions(before, before, 0) == []


def test_compare_fails_where_a_result_of_ours_is_gone(quick, here):
    after = read(quick[0])
    first, second = (r for r in after if r["provider"] == "cpu" and r["op"] == "nt_xent")
    after.remove(first)
    del second["seconds"]
    second.update(status="skipped", why="cpu cannot run.")
    write([r for r in after if r["provider"] != "eager" or r["op"] != "nt_xent"], Path("after.jsonl"))
    code, _, complaint = here("compare", str(quick[0]), "after.jsonl", "--fail-over", "1000")
    assert code == 1 and len(complaint.strip().splitlines()) == 2
    assert "nt_xent-64x32 fp32 cpu is in A and not in B" in complaint and "is skipped: cpu cannot run." in complaint
    assert here("compare", "after.jsonl", str(quick[0]), "--fail-over", "1000")[0] == 0


def test_no_ratio_is_of_two_runs(quick):
    records = read(quick[0])
    (trial,) = judge.trials(r for r in records if r["op"] == "clip_loss" and r["dtype"] == "float32").values()
    assert judge.ratio(trial, "eager")
    trial["cpu"] = {**trial["cpu"], "date": "2000-01-01T00:00:00Z"}
    assert judge.ratio(trial, "eager") is None


def test_plot_draws_a_png(quick, here, tmp_path):
    code, _, complaint = here("plot", str(quick[0]), "--out", "ratios.png")
    assert code == 0, complaint
    assert (tmp_path / "ratios.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["ratios.png"]


def test_losses_and_missed_targets_are_told():
    def record(provider: str, seconds: float) -> dict:
        spread = {"median": seconds, "p20": seconds, "p80": seconds}
        return {
            "workload": "nt_xent-2048x128",
            "op": "nt_xent",
            "dtype": "float32",
            "provider": provider,
            "chosen": provider == "cpu",
            "status": "ok",
            "memory_bytes": 1,
            "device": {"type": "cpu"},
            "seconds": {"fwd": spread, "bwd": spread, "fwd+bwd": spread},
        }

    lines = tables.remarks([record("cpu", 2.0), record("eager", 8.0), record("compile", 1.0)])
    assert any("slower" in line and "0.50x of compile" in line for line in lines)
    assert any("target missed" in line and "≥ 5x eager" in line and "4.00x" in line for line in lines)
    assert not any("of eager" in line for line in lines)


@pytest.mark.parametrize("command", ["list", "run", "compare", "plot"])
def test_help_has_an_example(command, here):
    code, text, _ = here(command, "--help")
    assert code == 0 and f"example:\n  sslkernels bench {command}" in text


def test_list_names_workloads_targets_and_absent_providers(here):
    code, text, complaint = here("list")
    assert code == 0, complaint
    assert all(str(workload) in text for workload in workloads.WORKLOADS)
    assert "fp32 ≥ 5x eager" in text and "provider triton: Triton" in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("run", "similarity", "--only", "barlow"), "--only is 'barlow'"),
        (("run", "similarity", "--providers", "cpu,faster"), "--providers has 'faster'"),
        (("run", "similarity", "--device", "tpu"), "--device is 'tpu'"),
        (("run", "similarity", "--seconds", "0"), "--seconds is 0"),
        (("run", "similarity", "--quick", "--out", "no/such/folder.jsonl"), "does not exist"),
        (("compare", "absent.jsonl", "absent.jsonl"), "absent.jsonl cannot be read"),
        (("plot", "absent.jsonl", "--out", "a.png"), "absent.jsonl cannot be read"),
        (("plot", "absent.jsonl", "--out", "folder"), "absent.jsonl cannot be read"),
        (("plot", "empty.jsonl", "--out", "no/such/folder"), "does not exist"),
        (("plot", "garbage.jsonl", "--out", "a.png"), "line 1 is not JSON"),
        (("plot", "half.jsonl", "--out", "a.png"), "half.jsonl, line 1 is incomplete"),
        (("run", "nt_xent", "--quick", "--out", "/proc/out.jsonl"), "nothing can be written there"),
        (("plot", "empty.jsonl", "--out", "garbage.jsonl"), "which is a file"),
        (("compare", "absent.jsonl", "absent.jsonl", "--fail-over", "nan"), "--fail-over is nan"),
        (("compare", "absent.jsonl", "absent.jsonl", "--fail-over", "-5"), "--fail-over is -5"),
        (("compare", "half.jsonl", "half.jsonl"), "half.jsonl, line 1 is incomplete"),
        (("plot", "empty.jsonl", "--out", "a.png"), "holds no record"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, words, here, tmp_path):
    (tmp_path / "garbage.jsonl").write_text('{"format"')
    (tmp_path / "half.jsonl").write_text('{"format": 1}\n')
    (tmp_path / "empty.jsonl").write_text("")
    before = sorted(tmp_path.iterdir())
    code, printed, complaint = here(*arguments)
    assert (code, printed) == (2, "") and words in complaint
    assert len(complaint.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_run_leaves_no_file(tmp_path):
    command = [sys.executable, "-m", "sslkernels", "bench", "run", "similarity", "--only", "nt_xent-4096x512"]
    process = subprocess.Popen(
        [*command, "--providers", "cpu", "--out", "out.jsonl"], cwd=tmp_path, env=ENVIRONMENT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("[1/2]")
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    # Python itself ends by the signal where it arrived inside an exec of source text, as in a lazy import.
    assert process.returncode in (130, -signal.SIGINT) and "nothing was written" in errors, errors
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old\n")

    def records():
        yield {"format": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(records(), path)
    assert path.read_text() == "old\n" and [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
