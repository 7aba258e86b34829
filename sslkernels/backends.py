# SPDX-License-Identifier: Apache-2.0
"""Choose the backend that runs an op, let callers override the choice, and explain it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sslkernels import _C, cuda, gpu
from sslkernels.arguments import DEVICES, LARGEST_WHOLE, came

NAMES = ("reference", "cpu", "triton", "cuda")
# This is a plain global, like torch's own defaults: torch.compile can guard on a global, but not on a ContextVar.
_block_choice: str | None = None
# An op may take this much memory to go faster: it keeps a part of a matrix, or works on a chunk of it. The C++ kernels
# keep up to so much from one call to the next.
WORKSPACE_VARIABLE, WORKSPACE_MIB = "SSLKERNELS_WORKSPACE_MIB", 256
BACKEND_VARIABLE, ISA_VARIABLE = "SSLKERNELS_BACKEND", "SSLKERNELS_ISA"
CHECK_VARIABLE = "SSLKERNELS_CHECK"  # 1: every op also runs on reference, and a warning names those that differ
# Triton itself takes these values for yes.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "y", "yes")
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def _workspace() -> int:
    given = os.environ.get(WORKSPACE_VARIABLE) or str(WORKSPACE_MIB)
    most = LARGEST_WHOLE >> 20
    if not (given.isascii() and given.isdecimal() and len(given) <= len(str(most)) and int(given) <= most):
        raise ValueError(f"{WORKSPACE_VARIABLE} is {came(given)}; pass a whole number of MiB up to {most}, 0 for none.")
    return int(given) << 20


def _check_isa() -> None:
    given = os.environ.get(ISA_VARIABLE)
    if given and given not in _C.available_isas():
        raise ValueError(
            f"{ISA_VARIABLE} is {came(given)}; this processor can run {', '.join(_C.available_isas())}. "
            "Unset it to take the best."
        )


def _checked() -> bool:
    given = os.environ.get(CHECK_VARIABLE) or "0"
    if given not in ("0", "1"):
        raise ValueError(f"{CHECK_VARIABLE} is {came(given)}; pass 1 to compare every op with reference, or 0.")
    return given == "1"


# Variables are read once, here. An error in them is raised at the first use and not at import: a command could not
# report an import that fails.
_wrong_environment: str | None = None
WORKSPACE, CHECKED = WORKSPACE_MIB << 20, False
try:
    WORKSPACE = _workspace()
    _C.limit_workspace(WORKSPACE)
    CHECKED = _checked()
    _check_isa()
except ValueError as error:
    _wrong_environment = str(error)


def why_not(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Say in one sentence why backend ``name`` cannot run here; None if it can."""
    if name == "cpu" and device.type != "cpu":
        return f"the cpu backend reads host memory and the tensors are on {device}."
    if name == "triton":
        if not _HAS_TRITON:
            return "Triton is not installed; `pip install sslkernels[triton]` brings it."
        if device.type != "cuda" and not (_INTERPRETED and device.type == "cpu"):
            return f"Triton kernels need a CUDA device and the tensors are on {device}."
        if dtype == torch.float64:
            return "the Triton kernels accumulate in float32 and take no float64."
        return gpu.why_not(device) if device.type == "cuda" else None
    if name == "cuda":
        if device.type != "cuda":
            return f"CUDA kernels need a CUDA device and the tensors are on {device}."
        return gpu.why_not(device) or cuda.why_not(device)
    return None


def choose(device: torch.device, dtype: torch.dtype, backend: str | None, has: tuple[str, ...]) -> str:
    """Choose a backend for tensors of ``dtype`` on ``device`` among those that an op ``has``, fastest first.

    The call's ``backend`` argument wins over ``use_backend``, which wins over ``SSLKERNELS_BACKEND``. A backend that is
    forced in this way and cannot run raises a ValueError with the reason. If none is forced, the choice is the fastest
    that can run.
    """
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise RuntimeError(
            "sslkernels works outside the transforms of torch.func (vmap, grad, jvp and their kin); "
            "call it on ordinary tensors, or compute what is transformed with plain PyTorch."
        )
    if device.type not in DEVICES:
        raise ValueError(f"tensors are on {device}, where no kernel runs; move them to {' or '.join(DEVICES[:2])}.")
    if _wrong_environment is not None:
        raise ValueError(_wrong_environment)
    forced, asker = backend if backend is not None else _block_choice, "backend"
    if forced is None:
        forced, asker = os.environ.get(BACKEND_VARIABLE) or None, BACKEND_VARIABLE
    if forced is not None:
        _check_name(forced, asker)
        reason = why_not(forced, device, dtype) if forced in has else "this op has no kernels for it."
        if reason is not None:
            accepted = ", ".join(usable(device, dtype, has))
            raise ValueError(f"{asker} {forced!r} cannot run: {reason} Accepted here: {accepted}.")
        return forced
    for name in has:
        if why_not(name, device, dtype) is None:
            break
    return name


def usable(device: torch.device, dtype: torch.dtype, has: tuple[str, ...]) -> list[str]:
    """List the backends that can run for ``dtype`` on ``device``."""
    return [name for name in NAMES if name in has and why_not(name, device, dtype) is None]


def release_workspace() -> None:
    """Give back the memory that the C++ kernels keep from one call to the next.

    It is at most what ``SSLKERNELS_WORKSPACE_MIB`` allows. The next call takes fresh memory again.

    >>> import sslkernels as sk
    >>> sk.release_workspace()
    """
    _C.release_workspace()


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op in this block on backend ``name`` ("reference", "cpu", "triton" or "cuda"), in every thread.

    A compiled function recompiles when the choice has changed. It reads the environment variable once, when traced.

    >>> import torch, sslkernels as sk
    >>> with sk.use_backend("reference"):
    ...     loss = sk.functional.nt_xent(torch.eye(2), torch.eye(2))
    """
    global _block_choice
    _check_name(name, "use_backend: name of a backend")
    outer, _block_choice = _block_choice, name
    try:
        yield
    finally:
        _block_choice = outer


def info() -> str:
    """Describe versions, instruction set and backends, and say why a backend is absent.

    It leaves CUDA alone, so that this process may fork afterwards: GPUs are asked by a process of its own.

    Raises:
        ValueError: a variable of the environment has a value with which nothing can run.
    """
    from sslkernels import __version__

    if _wrong_environment is not None:
        raise ValueError(_wrong_environment)
    if os.environ.get(BACKEND_VARIABLE):
        _check_name(os.environ[BACKEND_VARIABLE], BACKEND_VARIABLE)
    lines = [
        f"sslkernels {__version__}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads",
        f"instruction set: {_C.isa()} (this processor can run {', '.join(_C.available_isas())})",
        f"workspace: {WORKSPACE >> 20} MiB ({WORKSPACE_VARIABLE} sets it)",
    ]
    if CHECKED:
        lines.append(f"check: every op also runs on reference and is compared ({CHECK_VARIABLE})")
    cpu = torch.device("cpu")
    reasons = {name: why_not(name, cpu, torch.float32) for name in NAMES}
    if torch.cuda.device_count() > 0:  # NVML counts them, as long as nothing else has asked CUDA
        on_gpu = _reasons_on_gpu() if torch.cuda.is_initialized() else _asked_elsewhere()
        reasons = {**on_gpu, "cpu": reasons["cpu"]}
    lines += [f"backend {name}: {reasons[name] or 'available'}" for name in NAMES]
    return "\n".join(lines)


def _reasons_on_gpu() -> dict[str, str | None]:
    """Map each backend to the reason why it cannot run on the current GPU."""
    return {name: why_not(name, torch.device("cuda"), torch.float32) for name in NAMES}


def _asked_elsewhere() -> dict[str, str | None]:
    """Return what `_reasons_on_gpu` says in a fresh process with the same environment and modules."""
    code = "import json; from sslkernels import backends; print(json.dumps(backends._reasons_on_gpu()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        reason = f"not known, since the process that asks the GPU failed: {' '.join(str(error).split())}."
        return {name: reason if name in ("triton", "cuda") else None for name in NAMES}


def check_backend(name: str | None) -> str | None:
    """Check the name of a backend and return it; None stands for the fastest."""
    if name is not None:
        _check_name(name)
    return name


def _check_name(name: object, argument: str = "backend") -> None:
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"{argument} is {came(name)}; accepted are {', '.join(map(repr, NAMES))}.")
