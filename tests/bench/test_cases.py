# SPDX-License-Identifier: Apache-2.0
"""A `Case` is all that an op's benchmark needs: each is whole, and a new one appears everywhere."""

from __future__ import annotations

import argparse
import dataclasses
import inspect

import pytest
import torch

from sslkernels.bench import explain, page, runner
from sslkernels.bench.cases import CASES, FAMILIES, Case, rows
from sslkernels.bench.providers import OTHERS, PROVIDERS, Ours, has_backends
from sslkernels.bench.records import fault, load, write
from sslkernels.bench.workloads import DTYPES, NAMES, WORKLOADS, Workload
from sslkernels.ops.registry import families

CPU = torch.device("cpu")


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def tiny(case: Case) -> tuple[int, ...]:
    """The quick shape, or a small one for an op without sizes."""
    return next((size.shape for size in case.sizes if size.preset == "quick"), (8, 16, 4)[: len(case.dimensions)])


def test_names_are_of_things_that_are_there(case):
    assert FAMILIES[case.family.name] is case.family and case.family.name in families()
    assert {case.op, case.family.name} <= set(NAMES)
    assert set(case.peers) <= set(OTHERS) and {target.kind for size in case.sizes for target in size.targets} <= {
        *OTHERS, "floor", "seconds", "host", "bytes"
    }  # fmt: skip


def test_shapes_have_the_dimensions(case):
    assert all(len(size.shape) == len(case.dimensions) == len(set(case.dimensions)) for size in case.sizes)
    assert not case.sizes or {"small", "quick"} <= {size.preset for size in case.sizes}
    for part, whole in case.within:
        places = case.dimensions.index(part), case.dimensions.index(whole)
        assert all(size.shape[places[0]] <= size.shape[places[1]] for size in case.sizes)
    names = [str(workload) for workload in WORKLOADS if workload.op == case.op and workload.preset != "crossover"]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_inputs_fit_the_functions_and_are_the_same_again(case, dtype):
    workload = Workload(case.op, tiny(case))
    inputs, again = workload.inputs(dtype), workload.inputs(dtype)
    assert list(inputs) == list(inspect.signature(case.eager).parameters)
    inspect.signature(case.ours).bind(**inputs, backend="cpu")
    for one, other in zip(inputs.values(), again.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (case.update or case.search) != any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs.values())


def test_words_have_the_sizes(case):
    shape = tiny(case)
    assert "{" not in case.described(shape, "float32") and "float32" in case.described(shape, "float32")
    sizes = zip(case.dimensions, shape, strict=True)
    assert all(f"{name}={size}" in case.described(shape, "float32") for name, size in sizes)
    assert len(case.label(shape)) + 1 == len(case.family.columns), "the last column is the dtype"
    assert case.titled(shape).startswith(case.title) and len(case.printed(shape)) == len(shape)
    for backend in {"cpu", "reference"} & set(has_backends(Workload(case.op, shape))):
        assert case.path(backend, shape, torch.float32, CPU).endswith(".")


def test_more_rows_cost_more(case):
    shape = tiny(case)
    larger = (*shape[:-1], 4 * shape[-1])
    less, more = (case.cost(s, torch.float32) for s in (shape, larger))
    assert 0 < less.bytes < more.bytes and less.operations <= more.operations
    assert case.cost(shape, torch.bfloat16).bytes < less.bytes
    assert (case.pairs(shape) > 0) == bool(case.stored) and case.order(shape) > 0
    assert not (case.update or case.search) or less.backward == 0


def test_a_new_record_appears_everywhere(monkeypatch, tmp_path, capsys):
    new = dataclasses.replace(rows.BYOL, op="new_loss", title="New loss", path=lambda *_: "read once.")
    monkeypatch.setitem(CASES, "new_loss", new)
    monkeypatch.setattr(runner, "_peaks", lambda *_: (1e9, {"float32": (1e9, "torch.mm")}))
    chosen = [Ours("cpu"), PROVIDERS["eager"]]
    records = runner.run([Workload("new_loss", (8, 4))], ["float32"], chosen, CPU, 0.01, lambda _: None)
    assert [(record["status"], fault(record)) for record in records] == [("ok", None)] * 2
    write(records, tmp_path / "new.jsonl")
    assert "New loss 8×4 fp32" in page.render(load([tmp_path / "new.jsonl"]))

    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    assert "new_loss N,D (a frozen target)" in " ".join((parser.epilog or "").split())
    assert explain.run(parser.parse_args(["new_loss", "--shape", "8,4", "--backend", "reference"])) == 0
    told = capsys.readouterr().out
    assert "new_loss, N=8, D=4, float32 on cpu" in told and "path         read once." in told
