# SPDX-License-Identifier: Apache-2.0
"""Check the family on Triton: interpret it in a process of its own, and compile it for GPUs that are not there."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
# A block may ask for at most this much shared memory: 163 KiB, and 227 KiB from sm_90 on.
SHARED = {80: 166912, 90: 232448, 100: 232448}

AGAINST_THE_DENSE_TENSOR = """
import sys
sys.path[:0] = [{folder!r}, {tests!r}]
import sigreg_oracle as dense, test_sigreg_sums as test_sums, torch
import sslkernels.functional as SF
from sslkernels.ops import triton_launch
from sslkernels.ops.sigreg import schema, triton

plain = triton_launch.empty
triton_launch.empty = lambda *arguments: plain(*arguments).fill_(torch.nan)
torch.manual_seed(0)
# One program per slices, which joins three blocks of samples in memory; then one for every block.
for multiprocessors, shapes in ((0, ((1, 1, 1, 2), (1, 40, 33, 17))), (8, ((2, 20, 5, 6), (1, 3, 2, 22)))):
    triton.processors = lambda device: multiprocessors
    for views, n, slices, knots in shapes:
        for size in (1.0, 1e4):
            p = size * torch.randn(views, n, slices)
            test_sums.check(p, test_sums.STEP, knots, "triton", 1e-6 if size == 1 else 6e-6)
test_sums.test_what_is_no_number_stays_none("triton", torch.float32, torch.inf)
for size in (1e-30, 1e7, 1e12, 1e20, 1e38):
    sums, slope = test_sums.both(size * torch.rand(1, 1, 40), 0.2, 17, torch.ones(1, 2, 17, 40), "triton")
    torch.testing.assert_close(sums.square().sum(1), torch.ones(1, 17, 40), rtol=0, atol=1e-5)
    assert slope.abs().max() <= 2**0.5 * 0.2 * 16 * 17 / 2
assert (schema.sums(torch.empty(2, 0, 3), 0.1, 17, "triton") == 0).all()
p, grad = torch.randn(1, 20, 3), torch.randn(1, 2, 17, 3)
once, again = (test_sums.both(p, 0.2, 17, grad, "triton") for _ in range(2))
assert all(torch.equal(a, b) for a, b in zip(once, again))
z, slices = torch.randn(1, 20, 5), dense.unit_slices(5, 9)
for dtype in (torch.float32, torch.float16):
    leaf = z.detach().clone().to(dtype).requires_grad_()
    wide = leaf.detach().double().requires_grad_()
    lines = slices.to(dtype)
    loss, want = SF.sigreg(leaf, lines, backend="triton"), dense.sigreg(wide, lines)
    loss.backward()
    want.backward()
    close = 2e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(loss.double(), want, rtol=close, atol=close)
    torch.testing.assert_close(leaf.grad.double(), wide.grad, rtol=close, atol=close)
views = [torch.randn(v, 20, 5, requires_grad=True) for v in (2, 3)]
SF.lejepa(*views, slices.float(), weight=0.3, backend="triton").backward()
doubles = [view.detach().double().requires_grad_() for view in views]
dense.lejepa(*doubles, slices, 0.3).backward()
for view, want in zip(views, doubles):
    torch.testing.assert_close(view.grad.double(), want.grad, rtol=2e-5, atol=2e-5)
print("agrees")
"""


def needs_triton(least: tuple[int, int]) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed.")
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < least:
        pytest.skip(f"Triton {version} is too old.")


def test_interpreted(tmp_path: Path) -> None:
    needs_triton((3, 7))
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            AGAINST_THE_DENSE_TENSOR.format(folder=str(FOLDER), tests=str(FOLDER.parent)),
        ],
        cwd=tmp_path,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONSAFEPATH": "1", "TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.split() == ["agrees"], done.stdout + done.stderr


@pytest.mark.slow
def test_kernels_compile_without_spills(tmp_path: Path) -> None:
    needs_triton((3, 6))
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(FOLDER / "sigreg_compile.py"), *map(str, SHARED)],
        cwd=tmp_path,
        env={**environment, "PYTHONSAFEPATH": "1", "TRITON_DEFAULT_FP_FUSION": "1", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kernels) == 12
    for kernel in kernels:
        assert kernel["stack"] == 0 and kernel["registers"] <= 255 and kernel["shared"] <= SHARED[kernel["sm"]], kernel
