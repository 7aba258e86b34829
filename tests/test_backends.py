# SPDX-License-Identifier: Apache-2.0
"""The right backend runs: by default, by three ways to override it, and as the words explain it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sslkernels as sk
import sslkernels.functional as SF
from sslkernels import cuda
from sslkernels.backends import NAMES, usable, why_not
from sslkernels.ops.registry import Family
from sslkernels.ops.similarity import SIMILARITY

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


def choose(device: torch.device, dtype: torch.dtype, backend: str | None = None) -> str:
    return SIMILARITY.choose(device, dtype, backend)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the backends that ops were sent to."""
    seen: list[str] = []
    run = Family.run

    def recorded(family: Family, function: str, backend: str, *arguments: Any) -> Any:
        seen.append(backend)
        return run(family, function, backend, *arguments)

    monkeypatch.setattr(Family, "run", recorded)
    yield seen


@pytest.fixture(autouse=True)
def no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSLKERNELS_BACKEND", raising=False)


def loss(**options: Any) -> torch.Tensor:
    return SF.nt_xent(torch.eye(3, requires_grad=True), torch.eye(3), **options)


def test_the_compiled_backend_is_the_default_on_the_cpu(ran: list[str]) -> None:
    loss().backward()
    assert set(ran) == {"cpu"}
    assert all(choose(CPU, dtype) == "cpu" for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16))


def test_the_argument_chooses_for_forward_and_backward(ran: list[str]) -> None:
    loss(backend="reference").backward()
    assert set(ran) == {"reference"}


def test_the_block_chooses_and_ends(ran: list[str]) -> None:
    with sk.use_backend("reference"):
        loss()
        assert set(ran) == {"reference"}
        with sk.use_backend("cpu"):
            assert choose(CPU, torch.float32) == "cpu"
        assert choose(CPU, torch.float32) == "reference"
    with pytest.raises(KeyError), sk.use_backend("reference"):
        raise KeyError
    assert choose(CPU, torch.float32) == "cpu"


def test_the_backward_keeps_the_choice_of_the_forward(ran: list[str]) -> None:
    with sk.use_backend("reference"):
        value = loss()
    value.backward()
    assert set(ran) == {"reference"}


def test_the_block_holds_in_every_thread() -> None:
    found: list[str] = []
    with sk.use_backend("reference"):
        worker = threading.Thread(target=lambda: found.append(choose(CPU, torch.float32)))
        worker.start()
        worker.join()
    assert found == ["reference"]


def test_argument_over_block_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLKERNELS_BACKEND", "reference")
    assert choose(CPU, torch.float32) == "reference"
    with sk.use_backend("cpu"):
        assert choose(CPU, torch.float32) == "cpu"
        assert choose(CPU, torch.float32, "reference") == "reference"
    monkeypatch.setenv("SSLKERNELS_BACKEND", "")
    assert choose(CPU, torch.float32) == "cpu"


def test_an_unknown_name_is_refused_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    for call in (lambda: loss(backend="abacus"), lambda: sk.use_backend("abacus").__enter__()):
        with pytest.raises(ValueError, match="backend is 'abacus'; accepted are 'reference', 'cpu', 'triton'"):
            call()
    monkeypatch.setenv("SSLKERNELS_BACKEND", "abacus")
    with pytest.raises(ValueError, match="abacus"):
        loss()


def test_a_backend_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import sslkernels.backends as backends

    monkeypatch.setattr(backends, "_INTERPRETED", False)
    monkeypatch.setattr(backends, "_HAS_TRITON", True)
    with pytest.raises(ValueError, match="'triton' cannot run: .*CUDA device.* on cpu.*Accepted here: reference, cpu."):
        loss(backend="triton")
    with pytest.raises(ValueError, match="'cpu' cannot run: .*host memory.* on cuda:0"):
        choose(CUDA, torch.float32, "cpu")
    with pytest.raises(ValueError, match="'triton' cannot run: .*float64.*Accepted here: reference"):
        choose(CUDA, torch.float64, "triton")
    monkeypatch.setattr(backends, "_HAS_TRITON", False)
    with pytest.raises(ValueError, match=r"not installed; `pip install sslkernels\[triton\]`"):
        choose(CUDA, torch.float32, "triton")


def test_the_default_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import sslkernels.backends as backends

    monkeypatch.setattr(backends, "_HAS_TRITON", True)
    assert choose(CUDA, torch.bfloat16) == "triton"
    assert choose(CUDA, torch.float64) == "reference"
    assert usable(CUDA, torch.float32, SIMILARITY.backends) == ["reference", "triton"]
    monkeypatch.setattr(backends, "_HAS_TRITON", False)
    assert choose(CUDA, torch.float32) == "reference"


def test_info_names_versions_instruction_set_and_every_backend() -> None:
    text = sk.info()
    for word in (sk.__version__, torch.__version__, "instruction set", "baseline"):
        assert word in text
    lines = {line.split(":")[0]: line for line in text.splitlines()}
    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    for name in NAMES:
        line = lines[f"backend {name}"]
        reason = why_not(name, CPU if name == "cpu" else device, torch.float32)
        assert line.endswith(reason or "available")
    assert lines["backend cpu"].endswith("available") and lines["backend reference"].endswith("available")


def test_the_environment_chooses_in_a_fresh_process(run_python: Callable) -> None:
    code = (
        "import torch\nfrom sslkernels.ops.similarity import SIMILARITY\n"
        "print(SIMILARITY.choose(torch.device('cpu'), torch.float32, None))"
    )
    assert run_python(code, SSLKERNELS_BACKEND="reference").stdout.split() == ["reference"]


def test_the_workspace_comes_from_the_environment(run_python: Callable) -> None:
    code = "from sslkernels.backends import WORKSPACE\nprint(WORKSPACE)"
    assert run_python(code, SSLKERNELS_WORKSPACE_MIB="3").stdout.split() == [str(3 << 20)]
    assert run_python(code, SSLKERNELS_WORKSPACE_MIB="").stdout.split() == [str(256 << 20)]


WRONG_VARIABLES = {
    "SSLKERNELS_WORKSPACE_MIB": ("lots", "-1", "1.5", " 3", "٣", "²", "9" * 14, "9" * 5000, "\x1b[31m", "\udcff"),
    "SSLKERNELS_ISA": ("avx9", " avx2", "\x1b[31m", "\udcff", "0"),
    "SSLKERNELS_BACKEND": ("gpu", "CPU", " cpu", "\x1b[31m", "\udcff", "0"),
}


def test_a_wrong_variable_is_one_sentence_at_the_first_use(run_python: Callable) -> None:
    """Give every variable every wrong value: `choose` and `info` complain, and so does the command, once it is used."""
    code = (
        "import importlib, json, os, sys, torch\n"
        "from sslkernels import backends\n"
        "from sslkernels.cli import main\n"
        "said = []\n"
        "for name, values in json.loads(os.environ.pop('WRONG')).items():\n"
        "    for value in values:\n"
        "        os.environ[name] = value\n"
        "        importlib.reload(backends)\n"
        "        choose = lambda: backends.choose(torch.device('cpu'), torch.float32, None, ('reference',))\n"
        "        for call in (backends.info, choose):\n"
        "            try: call(); said.append([name, value, None])\n"
        "            except ValueError as error: said.append([name, value, str(error)])\n"
        "        del os.environ[name]\n"
        "print(json.dumps(said))\n"
    )
    done = run_python(code, WRONG=json.dumps(WRONG_VARIABLES))
    said = json.loads(done.stdout)
    assert len(said) == 2 * sum(map(len, WRONG_VARIABLES.values())), done.stderr
    for name, value, sentence in said:
        assert sentence is not None, (name, value)
        assert sentence.startswith(f"{name} is ") and sentence.endswith(".") and sentence.isprintable(), sentence
        assert len(sentence) < 300


def test_a_wrong_variable_ends_the_command_with_one_sentence() -> None:
    command = [Path(sys.executable).with_name("sslkernels"), "info"]
    environment = {**os.environ, "SSLKERNELS_WORKSPACE_MIB": "\x1b[31mlots"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("sslkernels: SSLKERNELS_WORKSPACE_MIB is '\\x1b[31mlots'; pass a whole number of MiB")
    assert done.stderr.count("\n") == 1


def test_whether_cuda_kernels_can_run_is_a_constant_of_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled module asks the driver, and torch.compile cannot follow it there."""
    seen = SimpleNamespace(is_available=lambda: True, get_device_capability=lambda _: (9, 0))
    monkeypatch.setattr(cuda, "torch", SimpleNamespace(cuda=seen))
    cuda._why_not.cache_clear()
    try:
        compiled = torch.compile(lambda x: x + (cuda._why_not(None) is None), fullgraph=True, backend="eager")
        assert compiled(torch.zeros(2)).shape == (2,)
    finally:
        cuda._why_not.cache_clear()
        torch._dynamo.reset()
