# SPDX-License-Identifier: Apache-2.0
"""Time a CUDA device that a stand-in plays on a clock of its own: kernels of known cost come out right."""

from __future__ import annotations

import importlib.util
import sys
import weakref
from pathlib import Path

import pytest
import torch

from sslkernels.bench import control, device_timing, judge, records, runner, tables, timing
from sslkernels.bench.cases import CASES
from sslkernels.bench.cases.case import Target
from sslkernels.bench.providers import PROVIDERS, Eager, Ours
from sslkernels.bench.workloads import WORKLOADS, Workload

CPU = torch.device("cpu")
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "device" / "stand_in.py"
MICRO = 1e-6


@pytest.fixture(scope="module")
def stand_in():
    if not FILE.is_file():
        pytest.skip("the repository's benchmark scripts are not here")
    spec = importlib.util.spec_from_file_location("stand_in", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["stand_in"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cuda(stand_in, monkeypatch):
    """A device on a clock of its own, in the place of torch.cuda."""
    cuda = stand_in.StandIn()
    for name, value in (("cuda", cuda), ("now", cuda.now), ("buffer", cuda.buffer)):
        monkeypatch.setattr(device_timing, name, value)
    monkeypatch.setattr(timing, "on_device", lambda device: True)
    monkeypatch.setattr(control, "on_device", lambda device: True)
    return cuda


class Kernel(torch.autograd.Function):
    """A loss whose forward and backward each queue one kernel."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.launch = backward
        forward()
        return x.sum()

    @staticmethod
    def backward(ctx, grad):
        ctx.launch()
        return grad.expand(3), None, None


def step(cuda, forward: float, backward: float, host: float = MICRO):
    x = torch.ones(3, requires_grad=True)
    launch = [lambda seconds=seconds: cuda.kernel(seconds, host) for seconds in (forward, backward)]
    return (lambda: Kernel.apply(x, *launch)), {"x": x}


def columns(timed, **options):
    (found,) = device_timing.interleaved({"ours": timed}, options.pop("seconds", 0.1)).values()
    fields = found.fields()
    names = [*fields["seconds"].items(), ("host", fields["host_seconds"]), ("graph", fields["graph_seconds"])]
    return {name: spread and spread["median"] for name, spread in names}, found


def near(seconds: float):
    """An event costs the stand-in a microsecond, which several calls share."""
    return pytest.approx(seconds, rel=0.01, abs=MICRO)


def test_a_step_that_the_device_bounds(cuda):
    found, whole = columns(step(cuda, 300 * MICRO, 700 * MICRO, host=20 * MICRO))
    expected = {"fwd": 300, "bwd": 700, "fwd+bwd": 1000, "graph": 1000}
    assert {name: found[name] for name in expected} == {name: near(x * MICRO) for name, x in expected.items()}
    assert found["host"] == near(1020 * MICRO), "the host waits for its launch and for the device"
    assert whole.calls > 1 and not whole.starved and len(whole.forward) == device_timing.ROUNDS


def test_a_step_that_the_host_bounds(cuda):
    found, whole = columns(step(cuda, 10 * MICRO, 30 * MICRO, host=400 * MICRO))
    expected = {"fwd": 10, "bwd": 30, "fwd+bwd": 40, "graph": 40}
    assert {name: found[name] for name in expected} == {name: near(x * MICRO) for name, x in expected.items()}
    assert found["host"] == near(830 * MICRO), "two launches, and the last kernel"
    assert not whole.starved


def test_without_a_backlog_the_host_would_be_measured(cuda, monkeypatch):
    monkeypatch.setattr(device_timing, "BACKLOG", 0.0)
    monkeypatch.setattr(device_timing, "LEAST_BACKLOG", 0.0)
    monkeypatch.setattr(device_timing, "TRIES", 1)
    found, whole = columns(step(cuda, 10 * MICRO, 30 * MICRO, host=400 * MICRO))
    assert found["fwd+bwd"] > 700 * MICRO and whole.starved, "the stand-in shows what the backlog is for"
    assert found["graph"] == near(40 * MICRO)


def test_a_backlog_that_was_too_short_is_made_longer(cuda, monkeypatch):
    monkeypatch.setattr(device_timing, "BACKLOG", 0.3)
    monkeypatch.setattr(device_timing, "LEAST_BACKLOG", 0.0)
    found, whole = columns(step(cuda, 10 * MICRO, 30 * MICRO, host=400 * MICRO))
    assert found["fwd+bwd"] == near(40 * MICRO) and not whole.starved


def test_a_step_that_waits_for_the_device_is_starved_and_has_no_graph(cuda):
    launch, inputs = step(cuda, 10 * MICRO, 30 * MICRO, host=400 * MICRO)

    def waits():
        loss = launch()
        cuda.synchronize()
        return loss

    found, whole = columns((waits, inputs))
    assert whole.starved and found["graph"] is None
    assert whole.no_graph == (
        "it cannot be captured: RuntimeError: operation not permitted when stream is capturing"
    )  # fmt: skip
    assert found["host"] == near(840 * MICRO) and len(whole.host) >= device_timing.ROUNDS


def test_every_pair_of_events_begins_with_an_empty_cache(cuda):
    """The first kernel after the flush is slow. Left out, the columns would be those of a warm cache."""
    cuda.flushed = False
    x = torch.ones(3)

    def reads():
        cuda.kernel((900 if cuda.flushed else 100) * MICRO)
        cuda.flushed = False

    found, whole = columns((reads, {"x": x}), seconds=10.0)
    mean = (900 + (whole.calls - 1) * 100) / whole.calls
    assert whole.calls == device_timing.MOST_CALLS and found["fwd+bwd"] == found["fwd"] == near(mean * MICRO)


def test_providers_take_turns(cuda):
    order = []

    def named(name):
        launch, inputs = step(cuda, 300 * MICRO, 700 * MICRO)
        return (lambda: order.append(name) or launch()), inputs

    device_timing.interleaved({"a": named("a"), "b": named("b")}, 0.02)
    turns = [name for at, name in enumerate(order) if at == 0 or order[at - 1] != name]
    assert turns == ["a", "b"] * (1 + device_timing.ROUNDS), "each is prepared, and then they take turns"


def test_graphs_give_way_where_memory_is_short(cuda):
    real, graphs = cuda.CUDAGraph, []
    cuda.CUDAGraph = lambda: graphs.append(weakref.ref(graph := real())) or graph
    launch, inputs = step(cuda, 300 * MICRO, 700 * MICRO)
    rounds = 0

    def large():
        nonlocal rounds
        rounds += 1
        if rounds > 40 and any(graph() is not None for graph in graphs):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return launch()

    small, found = device_timing.interleaved({"small": (launch, inputs), "large": (large, inputs)}, 0.1).values()
    assert rounds > 40 and len(found.forward) == device_timing.ROUNDS
    for timing_ in (small, found):
        assert timing_.fields()["graph_seconds"] is None and "do not fit" in timing_.no_graph
    with pytest.raises(torch.OutOfMemoryError):
        device_timing.interleaved({"large": (lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("x")), inputs)}, 0.1)


def test_an_update_has_no_backward(cuda):
    found, whole = columns((lambda: cuda.kernel(200 * MICRO), {"targets": [torch.ones(3)]}))
    assert found["fwd"] == found["fwd+bwd"] == near(200 * MICRO) and "bwd" not in found and not any(whole.backward)


def test_slow_steps_have_fewer_calls_in_a_pair(cuda):
    _, whole = columns(step(cuda, 0.02, 0.04), seconds=2.0)
    assert whole.calls == 2
    _, whole = columns(step(cuda, 1.0, 2.0), seconds=2.0)
    assert whole.calls == 1


def test_peaks_are_the_devices(cuda):
    assert device_timing.best(lambda: cuda.kernel(500 * MICRO, host=2000 * MICRO), CPU) == near(500 * MICRO)
    assert device_timing.clock() == pytest.approx(1.5e9, rel=0.01)


@pytest.fixture
def measured(cuda, monkeypatch):
    monkeypatch.setattr(runner, "_peaks", lambda *_: (1e9, {"float32": (1e9, "torch.mm")}))
    monkeypatch.setattr(timing, "step_memory", lambda *_: 1)
    return runner.run([Workload("nt_xent", (33, 17))], ["float32"], [Ours("cpu"), Eager()], CPU, 0.01, lambda _: None)


def test_records_have_the_columns_the_precision_and_the_clocks(measured):
    for record in measured:
        assert records.fault(record) is None and record["status"] == "ok", record["why"]
        assert record["precision"] == runner.precision() and record["precision"]["float32_matmul"] == "highest"
        assert record["clocks"]["measured"] == pytest.approx(1500, rel=0.01) and "sm" in record["clocks"]
        assert set(record["host_seconds"]) == set(record["graph_seconds"]) == {"median", "p20", "p80"}
        assert record["control"]["attempts"] == 1 and record["calls"] > 0
    for field, value in (("host_seconds", {"median": 1}), ("graph_seconds", []), ("starved", 3), ("clocks", 1)):
        assert records.fault({**measured[0], field: value}) in (field, "p20")
    told = "\n".join(tables.remarks([{**measured[0], "starved": True, "no_graph": "it cannot be captured: no."}]))
    assert "starved" in told and "no graph" in told


def test_the_table_has_the_columns_where_a_device_was_timed(measured, capsys):
    from rich.console import Console

    tables.print_run(measured, Console(width=200))
    assert " host " in capsys.readouterr().out
    plain = [{k: v for k, v in r.items() if k not in ("host_seconds", "graph_seconds")} for r in measured]
    tables.print_run(plain, Console(width=200))
    assert " host " not in capsys.readouterr().out


def test_rounded_products_are_a_family_of_their_own(measured, tmp_path):
    on_gpu = [{**r, "device": {"type": "cuda", "name": "H", "isa": "x"}} for r in measured]
    rounded = [{**r, "precision": {"float32_matmul": "high", "cuda_matmul": "tf32"}} for r in on_gpu]
    records.write([*rounded, *on_gpu], tmp_path / "a.jsonl")
    assert list(records.load([tmp_path / "a.jsonl"]).families) == ["similarity", "similarity-tf32"]


def test_a_target_as_the_host_sees_it_is_judged(measured):
    trial = {r["provider"]: r for r in measured}
    mine = {**trial["cpu"], "host_seconds": {"median": 0.3e-3, "p20": 0.3e-3, "p80": 0.3e-3}}
    target = Target("bfloat16", "host", 0.2e-3, "cuda")
    assert judge.judge(target, trial, mine) == (target, 0.3e-3, False)
    assert judge.describe(target) == "≤ 0.20 ms as the host sees it"
    assert judge.judge(target, trial, {**mine, "host_seconds": None})[1:] == (None, None)


def test_inputs_are_drawn_where_they_are_used(monkeypatch):
    """Without a GPU this shows on the generators: no tensor is drawn by another than the device's own."""
    real, asked = torch.Generator, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": asked.append(torch.device(device)) or real())
    for op in CASES:
        shape = next(w.shape for w in WORKLOADS if w.op == op and w.preset == "quick") if CASES[op].sizes else (4, 4, 4)
        with pytest.raises((RuntimeError, AssertionError)):
            Workload(op, shape).inputs(torch.float32, "cuda")
    assert asked and all(device.type == "cuda" for device in asked)
    asked.clear()
    Workload("nt_xent", (4, 4)).inputs(torch.float32)
    assert [device.type for device in asked] == ["cpu"]


def test_peers_of_a_gpu_are_providers():
    assert {"memeff", "siglip", "eager", "compile"} <= set(PROVIDERS)
