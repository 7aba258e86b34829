# SPDX-License-Identifier: Apache-2.0
"""Every Triton kernel compiles for sm_80, sm_90 and sm_100 without spilling, within their registers and shared memory.

No GPU is needed: Triton brings ptxas. The tests that run Triton's interpreter check the numbers.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# The most shared memory of a block, in bytes: 163 KiB, and 227 KiB from sm_90 on.
SHARED = {80: 166912, 90: 232448, 100: 232448}


def compile_kernels(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed.")
    script = Path(__file__).with_name("triton_compile.py")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env={**environment, "PYTHONSAFEPATH": "1", "TRITON_DEFAULT_FP_FUSION": "1", "TRITON_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(kernels: list[dict[str, Any]]) -> None:
    too_much = [
        kernel
        for kernel in kernels
        if kernel["stack"] > 0 or kernel["registers"] > 255 or kernel["shared"] > SHARED[kernel["sm"]]
    ]
    assert not too_much, "\n".join(map(str, too_much))


@pytest.fixture(scope="module")
def usual_kernels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """The usual kernels of a family for sm_90, compiled once."""
    return functools.cache(lambda family: compile_kernels(tmp_path_factory.mktemp("compiled"), family, "90"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "least"),
    (
        ("similarity", 20),
        ("attention", 4),
        ("rows", 14),
        ("neighbours", 10),
        ("correlation", 30),
        ("tokens", 40),
        ("ema", 16),
        ("sampled", 6),
    ),
)
def test_usual_kernels_fit(usual_kernels: Callable[[str], list[dict[str, Any]]], family: str, least: int) -> None:
    kernels = usual_kernels(family)
    assert len(kernels) >= least
    check(kernels)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "products", "least"),
    (
        ("similarity", ("sums bf16", "weights bf16", "attend bf16", "move bf16"), 12),
        ("correlation", ("matrix", "backward"), 15),
    ),
)
def test_products_load_ahead_and_use_tensor_cores(
    usual_kernels: Callable[[str], list[dict[str, Any]]], family: str, products: tuple[str, ...], least: int
) -> None:
    found = [kernel for kernel in usual_kernels(family) if kernel["kernel"].startswith(products)]
    assert len(found) >= least
    for kernel in found:
        assert kernel["copies_ahead"] > 0 and kernel["product"] == "wgmma", kernel


@pytest.mark.slow
@pytest.mark.share(7)
@pytest.mark.parametrize("architecture", SHARED)
@pytest.mark.parametrize(
    ("family", "least"),
    (
        ("similarity", 90),
        ("attention", 90),
        ("rows", 42),
        ("neighbours", 18),
        ("correlation", 80),
        ("tokens", 110),
        ("ema", 90),
    ),
)
def test_every_kernel_fits(family: str, least: int, architecture: int, tmp_path: Path) -> None:
    kernels = compile_kernels(tmp_path, "--all", family, str(architecture))
    assert len(kernels) >= least
    check(kernels)
