# SPDX-License-Identifier: Apache-2.0
"""Each GPU is asked once for its multiprocessors and its compute capability, and a recorder can answer for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sslkernels import gpu
from sslkernels.gpu import Gpu, every_gpu_is
from sslkernels.ops.triton_launch import capability, processors

COUNTS = (132, 78)
CAPABILITIES = ((9, 0), (8, 6))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give torch two GPUs. The second is the current one; ``asked.times`` counts the questions about numbers."""
    seen = SimpleNamespace(times=0, current=1)

    def capability_of(device: torch.device) -> tuple[int, int]:
        seen.times += 1
        return CAPABILITIES[device.index]

    def properties_of(device: torch.device) -> Any:
        return SimpleNamespace(multi_processor_count=COUNTS[device.index])

    monkeypatch.setattr(torch.cuda, "current_device", lambda: seen.current)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability_of)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties_of)
    monkeypatch.setattr(gpu, "_known", gpu._Asked())
    return seen


def test_every_gpu_is_asked_once(asked: SimpleNamespace) -> None:
    for _ in range(3):
        for index in (0, 1):
            device = torch.device("cuda", index)
            assert processors(device) == COUNTS[index]
            assert capability(device) == CAPABILITIES[index]
    assert asked.times == 2


def test_no_index_means_the_current_device_of_the_moment(asked: SimpleNamespace) -> None:
    device = torch.device("cuda")
    assert (processors(device), capability(device)) == (78, (8, 6))
    asked.current = 0
    assert (processors(device), capability(device)) == (132, (9, 0))


def test_other_makers_have_no_compute_capability(asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "6.4")
    device = torch.device("cuda", 0)
    assert (processors(device), capability(device)) == (132, (0, 0))


def test_the_interpreter_has_a_few_processors() -> None:
    assert (processors(torch.device("cpu")), capability(torch.device("cpu"))) == (4, (0, 0))


def test_a_recorder_answers_for_every_gpu(asked: SimpleNamespace) -> None:
    with every_gpu_is(Gpu(148, (10, 0))):
        for device in (torch.device("cuda"), torch.device("cuda", 7)):
            assert (processors(device), capability(device)) == (148, (10, 0))
        assert processors(torch.device("cpu")) == 4
    assert asked.times == 0
    assert processors(torch.device("cuda", 0)) == 132
