# SPDX-License-Identifier: Apache-2.0
"""The right backend runs: by default, by three ways to override it, and as the words explain it."""

from __future__ import annotations

import importlib.util
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
from sslkernels import backends, cuda, gpu
from sslkernels.backends import NAMES, usable, why_not
from sslkernels.ops.registry import Family
from sslkernels.ops.similarity import SIMILARITY
from sslkernels.ops.tokens import TOKENS

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
    monkeypatch.setattr(backends, "_HAS_TRITON", True)
    assert choose(CUDA, torch.bfloat16) == "triton"
    assert choose(CUDA, torch.float64) == "reference"
    assert usable(CUDA, torch.float32, SIMILARITY.backends) == ["reference", "triton"]
    monkeypatch.setattr(backends, "_HAS_TRITON", False)
    assert choose(CUDA, torch.float32) == "reference"


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Forget what was found out about GPUs, before and after a test that pretends to have one."""
    for found in (gpu._why_not, cuda._why_not):
        found.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "_known", gpu._Asked())
        yield
    for found in (gpu._why_not, cuda._why_not):
        found.cache_clear()


def has_gpus(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], current: int = 0) -> None:
    monkeypatch.setattr(backends, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capabilities[getattr(device, "index", device)]
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=1))


@pytest.mark.parametrize("name", ("triton", "cuda"))
def test_rocm_is_refused_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    """PyTorch gives AMD's GPUs the device type "cuda" too."""
    has_gpus(monkeypatch, (9, 4))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ValueError, match=r"cannot run: this PyTorch is one for AMD's GPUs \(ROCm\).*here: reference\."):
        TOKENS.choose(CUDA, torch.float32, name)
    assert TOKENS.choose(CUDA, torch.float32, None) == "reference"


@pytest.mark.parametrize("name", ("triton", "cuda"))
def test_windows_is_refused_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    has_gpus(monkeypatch, (9, 0))
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="the kernels for GPUs need Linux, and this system is win32. Accepted"):
        TOKENS.choose(CUDA, torch.float32, name)


@pytest.mark.parametrize("name", ("triton", "cuda"))
def test_an_old_gpu_is_refused_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    has_gpus(monkeypatch, (8, 0), (7, 5))
    with pytest.raises(ValueError, match="need compute capability 8.0, and cuda:1 has 7.5. Accepted here: reference."):
        TOKENS.choose(torch.device("cuda", 1), torch.float32, name)
    assert TOKENS.choose(torch.device("cuda", 1), torch.float32, None) == "reference"
    assert TOKENS.choose(CUDA, torch.float32, "triton") == "triton"


@pytest.mark.parametrize("kind", ("mps", "xpu"))
def test_other_devices_run_plain_pytorch(kind: str) -> None:
    device = torch.device(kind, 0)
    assert TOKENS.choose(device, torch.float32, None) == "reference"
    for name in ("triton", "cuda"):
        with pytest.raises(ValueError, match=f"need a CUDA device and the tensors are on {kind}:0. Accepted"):
            TOKENS.choose(device, torch.float32, name)


def test_a_device_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    """The answer is kept, and another device may be current when it is asked for again."""
    for index, found in ((0, "cuda:0 has 7.0"), (1, None), (2, "cuda:2 has 7.5")):
        has_gpus(monkeypatch, (7, 0), (9, 0), (7, 5), current=index)
        reason = why_not("triton", torch.device("cuda"), torch.float32)
        assert reason is None if found is None else found in (reason or "")
    monkeypatch.setattr(cuda, "_no_image", lambda capability, driver: f"image for {capability} is missing")
    monkeypatch.setattr(cuda, "_C", SimpleNamespace(cuda_driver_version=lambda: 13000))
    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    for index, capability in enumerate(((8, 6), (9, 0))):
        has_gpus(monkeypatch, (8, 6), (9, 0), current=index)
        assert str(capability) in (cuda.why_not(torch.device("cuda")) or "")


def test_info_leaves_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has asked CUDA can fork no more, so another one does. It finds no GPU here and says so."""
    for name in ("is_available", "current_device", "get_device_capability", "get_device_properties", "init"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: pytest.fail(f"info called torch.cuda.{name}"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    text = sk.info()
    if importlib.util.find_spec("triton") is not None:
        assert "backend triton: this PyTorch sees no CUDA device." in text
    assert "backend cuda: this PyTorch sees no CUDA device." in text
    assert "backend cpu: available" in text


def test_info_says_that_it_could_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    text = sk.info()
    assert "backend cuda: not known, since the process that asks the GPU failed: " in text
    assert "backend cpu: available" in text and "backend reference: available" in text


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


@pytest.mark.filterwarnings("error:.*cache.*:UserWarning")
def test_whether_kernels_can_run_is_a_constant_of_a_graph(monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    """The driver is asked, and torch.compile cannot follow there."""
    seen = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_capability=lambda _: (9, 0),
        get_device_properties=lambda _: SimpleNamespace(multi_processor_count=1),
    )
    for module in (gpu, cuda):  # torch.compile itself must not believe in the GPU
        monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=seen, version=torch.version, device=torch.device))
    monkeypatch.setattr(backends, "_HAS_TRITON", True)
    reasons = [why_not(name, CUDA, torch.float32) for name in ("triton", "cuda")]
    assert reasons[0] is None
    for found in (gpu._why_not, cuda._why_not):
        found.cache_clear()

    def traced(x: torch.Tensor) -> torch.Tensor:
        found = [why_not(name, CUDA, torch.float32) for name in ("triton", "cuda")]
        return x + sum(reason is None for reason in found)

    compiled = torch.compile(traced, fullgraph=True, backend="eager")
    try:
        assert compiled(torch.zeros(2)).tolist() == [reasons.count(None)] * 2
    finally:
        torch._dynamo.reset()
