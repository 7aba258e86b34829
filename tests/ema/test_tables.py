# SPDX-License-Identifier: Apache-2.0
"""Tables of addresses on a GPU are made without a wait, kept while they may be needed, and given back afterwards."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslkernels import capture
from sslkernels.ops.ema import pairs_of, tables
from sslkernels.ops.ema.pairs import Pairs


@pytest.fixture(autouse=True)
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_recent", OrderedDict())
    monkeypatch.setattr(tables, "_captured", {})


def pairs(count: int = 3) -> Pairs:
    return pairs_of([torch.zeros(count)], [torch.ones(count)], ())


def table(of: Pairs, backend: str = "cuda") -> Tensor:
    return tables.device_table(backend, of, lambda packed: (np.frombuffer(packed, np.int64).copy(), None))[0]


def captured(of: Pairs, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as capturing:
        capturing.setattr(tables, "is_captured", lambda x: True)
        return table(of)


def test_a_table_is_kept_for_a_backend_and_its_pairs() -> None:
    one, other = pairs(), pairs()
    assert table(one) is table(one) and table(one, "triton") is table(one, "triton")
    assert len({id(table(one)), id(table(one, "triton")), id(table(other))}) == 3


def test_the_last_tables_are_kept() -> None:
    first, *others = (pairs() for _ in range(tables.TABLES + 1))
    kept = [table(each) for each in (first, *others[:-1])]
    assert table(first) is kept[0]
    table(others[-1])  # others[0] was not used for the longest time
    assert len(tables._recent) == tables.TABLES
    assert table(first) is kept[0] and table(others[0]) is not kept[1]


def test_a_capture_takes_the_table_of_an_update_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = pairs()
    with pytest.raises(
        RuntimeError, match=r"^ema_update_: [^.]*call it once with the same tensors before the capture\.$"
    ):
        captured(one, monkeypatch)
    assert not tables._recent and not tables._captured
    held = table(one)
    assert captured(one, monkeypatch) is held


def test_a_captured_table_stays_until_the_memory_it_writes_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pairs(), pairs()
    kept = one.targets[0].detach()  # shares the memory
    held = table(one)
    captured(one, monkeypatch)
    for each in [pairs() for _ in range(tables.TABLES)]:
        table(each)
    assert table(one) is held
    packed = one.table
    del one
    table(other)
    captured(other, monkeypatch)
    assert [key[1] for key in tables._captured] == [packed, other.table]
    del kept
    captured(other, monkeypatch)  # a table that is captured already looks for no other
    third = pairs()
    table(third)
    captured(third, monkeypatch)
    assert [key[1] for key in tables._captured] == [other.table, third.table]


class SecondGpu:
    """Stands in for a tensor on cuda:1, while cuda:0 is current."""

    is_cuda, device = True, torch.device("cuda", 1)

    def get_device(self) -> int:
        return 1


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The current device, which is cuda:0 at first."""
    place = [0]

    def exchange(device: int) -> int:
        before, place[0] = place[0], device if device >= 0 else place[0]
        return before

    monkeypatch.setattr(torch.cuda, "_exchange_device", exchange)
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", exchange)
    return place


def test_the_stream_of_the_tensors_device_is_asked(current: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for capturing in (0, 1):
        monkeypatch.setattr(
            torch.cuda, "is_current_stream_capturing", lambda capturing=capturing: current[0] == capturing
        )
        assert capture.is_captured(SecondGpu()) == (capturing == 1)
        assert current == [0] and not capture.is_captured(torch.ones(1))


def test_a_table_is_sent_without_a_wait(current: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from memory that is not pinned waits, and is an error where torch forbids waits."""
    calls: list[Any] = []

    def to(device: torch.device, non_blocking: bool = False) -> str:
        calls.append((device, non_blocking, current[0]))
        return "on the device"

    monkeypatch.setattr(Tensor, "pin_memory", lambda array: SimpleNamespace(to=to))
    assert tables._sent(torch.zeros(3), SecondGpu()) == "on the device"
    assert calls == [(SecondGpu.device, True, 1)] and current == [0]


def test_what_a_capture_forbids_is_one_sentence(current: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver may refuse to load a kernel during a capture."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: current[0] == 1)
    words = r"^sslkernels: a kernel of the tokens family .* \(not permitted\); .* call the function once .*[^.]\.$"
    with pytest.raises(RuntimeError, match=words) as refused, capture.launching("tokens", SecondGpu()):
        assert current == [1]
        raise ValueError("not permitted")
    assert isinstance(refused.value.__cause__, ValueError) and current == [0]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(ValueError, match="another reason"), capture.launching("tokens", SecondGpu()):
        raise ValueError("another reason")
    with pytest.raises(KeyboardInterrupt), capture.launching("tokens", SecondGpu()):
        raise KeyboardInterrupt
