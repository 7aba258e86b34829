# SPDX-License-Identifier: Apache-2.0
"""The kernels that the benchmark's workloads for a GPU would run, compiled as they would be launched there.

None spills, all have their work counted, and every product runs on the newest matrix instruction of its target. The
instructions for a pair of rows are at most what docs/design/gpu.md states.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from sslkernels.bench.workloads import FAMILIES, WORKLOADS, Workload
from sslkernels.device import report
from sslkernels.device.targets import TARGETS
from sslkernels.ops.registry import families

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed.", allow_module_level=True)
pytestmark = pytest.mark.slow

NEWEST = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05"}
NOTE = Path(__file__).parents[2] / "docs" / "design" / "gpu.md"


def workloads(family: str) -> list[Workload]:
    """Those of the preset for a GPU; rows and sigreg have small ones alone."""
    ours = [w for w in WORKLOADS if w.family == family and not w.case.not_recorded]
    found = [w for w in ours if w.preset == "recipe" or w.recipe_too]
    return found or [w for w in ours if w.preset == "small"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton"))


@pytest.mark.share(6)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", TARGETS)
def test_kernels_fit_multiply_on_tensor_cores_and_are_modelled(family: str, name: str) -> None:
    target, wrong = TARGETS[name], set()
    for workload in workloads(family):
        for dtype in (torch.bfloat16, torch.float32):
            for backend in families()[family].kernels:
                if backend == "cpu":
                    continue
                for row in report.make(workload, dtype, target, backend).rows:
                    kernel = f"{workload} {str(dtype)[6:]} {backend} {row.name}"
                    if row.used is not None and row.used.spills:
                        wrong.add(f"{kernel} spills {row.used.spills} bytes")
                    if not row.modelled:
                        wrong.add(f"{kernel} is not modelled")
                    products = any(work is not None and work.tensor_ops for work in row.work)
                    if products and row.used is not None and row.used.product != NEWEST[name]:
                        wrong.add(f"{kernel} multiplies with {row.used.product}")
    assert not wrong, "\n".join(sorted(wrong))


def stated() -> list[tuple[str, tuple[int, ...], str, float]]:
    """Rows of the note's table: | `nt_xent` 4096 x 128 | forward | 17 |, in bfloat16 on sm_90."""
    found = re.findall(r"^\| `(\w+)` ([\d x]+) \| (\w+) \| ([\d.]+) \|", NOTE.read_text(), re.MULTILINE)
    return [(op, tuple(map(int, shape.split(" x "))), kernel, float(most)) for op, shape, kernel, most in found]


@pytest.mark.share(6)
@pytest.mark.parametrize(("op", "shape", "kernel", "most"), stated())
def test_instructions_per_pair_are_at_most_what_the_note_states(
    op: str, shape: tuple[int, ...], kernel: str, most: float
) -> None:
    rows = report.make(Workload(op, shape), torch.bfloat16, TARGETS["sm_90"], "triton").rows
    counts = [count for row in rows if row.name == kernel for count in row.per_pair()]
    assert counts and max(counts) <= most


def test_the_note_states_instructions_of_every_sweep() -> None:
    assert len(stated()) >= 4
