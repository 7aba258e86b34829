# SPDX-License-Identifier: Apache-2.0
"""Describe the machine, and measure the rates that predictions rest on: `python -m device.machine env | peaks`."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import time
from functools import partial
from typing import Any

from device import files

_ASKED = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw", "power.limit",
    "temperature.gpu", "memory.total", "memory.used", "compute_mode", "mig.mode.current",
)  # fmt: skip
_PACKAGES = (
    "torch", "triton", "cupy-cuda13x", "numpy", "pytest", "pytest-xdist", "hypothesis", "scikit-build-core",
    "memeff", "siglip-kernel",
)  # fmt: skip
_TOOLS = ("nvidia-smi", "nvcc", "cmake", "ninja", "compute-sanitizer", "ncu")


def env() -> None:
    """Ask what can be asked without torch first, since that takes seconds to import."""
    files.update(
        files.out() / "env.json",
        began=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        python=platform.python_version(),
        system=platform.platform(),
        versions={name: _version(name) for name in _PACKAGES},
        tools={name: shutil.which(name) for name in _TOOLS},
        nvcc=_said(["nvcc", "--version"])[-1:],
        nvidia_smi=_asked(),
    )
    import torch

    found: dict[str, Any] = {"cuda": torch.version.cuda, "available": torch.cuda.is_available()}
    if torch.cuda.is_available():
        known = torch.cuda.get_device_properties(0)
        found |= {
            "name": known.name,
            "capability": [known.major, known.minor],
            "multiprocessors": known.multi_processor_count,
            "memory": known.total_memory,
            "l2": getattr(known, "L2_cache_size", None),
        }
    files.update(files.out() / "env.json", torch=found)


def peaks() -> None:
    """The best of several products and copies. The products are the four that the model of the losses rests on."""
    from device.rehearsal import REHEARSED, device

    here = device()
    import torch

    from sslkernels.bench import device_timing, runner

    wide, n, width = (64, 48, 16) if REHEARSED else (8192, 6656, 512)
    found: dict[str, float] = {}

    def take(name: str, operations: float, call: Any) -> None:
        try:
            found[name] = operations / device_timing.best(call, here)
        except (RuntimeError, NotImplementedError) as error:  # a product that this torch has not
            print(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
        files.update(files.out() / "env.json", peaks=found)

    def rows(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(shape, device=here).to(dtype)

    square = rows(wide, wide, dtype=torch.float32)
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        take(f"mm fp32 {precision}", 2 * wide**3, partial(torch.mm, square, square))
    torch.set_float32_matmul_precision("highest")
    half = square.to(torch.bfloat16)
    take("mm bf16", 2 * wide**3, partial(torch.mm, half, half))
    x, y = rows(wide, width), rows(width, wide)
    take("mm bf16 to fp32, short", 2 * wide * wide * width, partial(torch.mm, x, y, out_dtype=torch.float32))
    weights, keys, sums = rows(n, n), rows(n, width), rows(n, width, dtype=torch.float32)
    product = partial(torch.addmm, sums, weights, keys, out_dtype=torch.float32)
    take("addmm bf16 to fp32", 2 * n * n * width, product)
    for name, count in (("copy 1 GiB", 1 << 30), ("copy 100 MB", 10**8)):
        count = 4096 if REHEARSED else count
        source = torch.ones(count // 4, device=here)
        target = torch.empty_like(source)
        take(name, 2 * source.nbytes, partial(target.copy_, source))
    files.update(files.out() / "env.json", clocks=runner.device_clocks(here))


def _asked() -> dict[str, str]:
    told = _said(["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", "--id=0"])
    return dict(zip(_ASKED, told[0].split(", "), strict=False)) if told else {}


def _said(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=8)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    {"env": env, "peaks": peaks}[sys.argv[1]]()
