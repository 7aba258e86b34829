# SPDX-License-Identifier: Apache-2.0
"""Runs a test file again under Triton's interpreter, in a process of its own with TRITON_INTERPRET=1."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def triton_is_too_old() -> str | None:
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "Triton is not installed."
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (3, 7):
        return f"Triton {version} interprets too little of its language; 3.7 is needed."
    return None


def poison_new_tensors(monkeypatch: pytest.MonkeyPatch, *launchers: ModuleType) -> None:
    """Have tensors that launchers allocate begin as NaN, or as -12345, so that elements that no kernel writes show.

    ``launchers`` are the modules that ask `triton_launch` for tensors of any dtype, not only for float32 and float64.
    """
    from sslkernels.ops import triton_launch

    plain = triton_launch.empty

    def poisoned(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return plain(like, shape, dtype).fill_(torch.nan if dtype.is_floating_point else -12345)

    for module in (triton_launch, *launchers):
        monkeypatch.setattr(module, "empty", poisoned)


def run_interpreted(file: str, marker: str, folder: Path) -> None:
    reason = triton_is_too_old()
    if reason is not None:
        pytest.skip(reason)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-W", "ignore::RuntimeWarning", "-m", marker, str(Path(file).resolve())],
        cwd=folder,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONSAFEPATH": "1", "TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout, done.stdout[-2000:]
