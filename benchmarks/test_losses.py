# SPDX-License-Identifier: Apache-2.0
"""The small workloads of every family under pytest-benchmark: `pytest benchmarks`.

The same workloads, providers and gate as `sslkernels bench run`, for those who want its statistics, its
history and its comparison. Providers run one after another here, not interleaved: for ratios use the command.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sslkernels.bench import workloads
from sslkernels.bench.gate import Truth, differentiable, slopes
from sslkernels.bench.providers import PROVIDERS, Ours

# Anything larger takes minutes, for its float64 truth and five providers.
MOST_PAIRS = 1 << 24
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CASES = [
    (workload, dtype)
    for family in workloads.FAMILIES
    for workload in workloads.select(family, "small")
    if workload.pairs <= MOST_PAIRS
    for dtype in workloads.DTYPES
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest) -> tuple[workloads.Workload, torch.dtype, dict, Truth]:
    workload, dtype = request.param[0], workloads.DTYPES[request.param[1]]
    inputs = workload.inputs(dtype, DEVICE)
    return workload, dtype, inputs, Truth.of(workload, inputs)


@pytest.mark.parametrize("phase", ["fwd", "fwd+bwd"])
@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=lambda provider: provider.name)
def test_loss(benchmark: Any, case: tuple, provider: Any, phase: str) -> None:
    workload, dtype, inputs, truth = case
    reason = provider.why_not(workload, DEVICE, dtype)
    if reason:
        pytest.skip(reason)
    step = provider.step(workload, inputs)
    gate = truth.gate(step, inputs)
    complaint = gate.complaint if isinstance(provider, Ours) else gate.refusal
    assert complaint is None, f"{provider.name} is wrong and was not timed: {complaint}"

    wanted = list(differentiable(inputs).values())
    if phase == "fwd+bwd" and not wanted:
        pytest.skip("an update has no backward.")

    def once() -> None:
        loss = step()
        if phase == "fwd+bwd":
            slopes(loss, wanted)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = f"{workload} {dtype} {phase}"
    benchmark(once)
