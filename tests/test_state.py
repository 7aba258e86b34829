# SPDX-License-Identifier: Apache-2.0
"""MemoryQueue is a ring that holds the newest rows, whatever the batch sizes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sslkernels import MemoryQueue


def test_starts_with_unit_rows_that_differ() -> None:
    queue = MemoryQueue(6, 5)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(6))
    assert queue.keys.unique(dim=0).shape == (6, 5) and int(queue.position) == 0
    assert not queue.keys.requires_grad and list(queue.parameters()) == []


@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 25), min_size=1, max_size=8))
def test_holds_the_newest_rows_in_ring_order(size: int, batches: list[int]) -> None:
    queue, written = MemoryQueue(size, 1), 0
    slots = queue.keys.clone()
    for batch in batches:
        keys = torch.arange(written, written + batch).float()[:, None] + 100
        queue.enqueue(keys)
        for key in keys:
            slots[written % size] = key
            written += 1
        assert torch.equal(queue.keys, slots)
        assert int(queue.position) == written % size


def test_keys_are_read_without_a_copy() -> None:
    queue = MemoryQueue(4, 2)
    before = queue.keys
    queue.enqueue(torch.ones(2, 2))
    assert queue.keys.data_ptr() == before.data_ptr() and (before[:2] == 1).all()


def test_enqueue_keeps_no_graph_and_no_alias() -> None:
    queue = MemoryQueue(4, 2)
    keys = torch.ones(4, 2, requires_grad=True)
    queue.enqueue(keys * 2)
    assert not queue.keys.requires_grad and queue.keys.grad_fn is None
    fresh = torch.ones(4, 2)
    queue.enqueue(fresh)
    fresh.zero_()
    assert (queue.keys == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_keys_of_another_dtype_are_converted(dtype: torch.dtype) -> None:
    queue = MemoryQueue(3, 2)
    queue.enqueue(torch.full((3, 2), 0.5, dtype=dtype))
    assert queue.keys.dtype == torch.float32 and (queue.keys == 0.5).all()
    half = MemoryQueue(3, 2).to(dtype)
    half.enqueue(torch.full((4, 2), 0.25))
    assert half.keys.dtype == dtype and (half.keys == 0.25).all() and half.position.dtype == torch.int64


def test_non_contiguous_keys() -> None:
    queue, keys = MemoryQueue(5, 3), torch.randn(3, 5)
    queue.enqueue(keys.T)
    assert torch.equal(queue.keys, keys.T)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda q: pickle.loads(pickle.dumps(q))], ids=["deepcopy", "pickle"]
)
def test_state_and_copies_go_on_alike(duplicate) -> None:
    queue = MemoryQueue(5, 2)
    queue.enqueue(torch.randn(3, 2))
    other, loaded = duplicate(queue), MemoryQueue(5, 2)
    loaded.load_state_dict(queue.state_dict())
    keys = torch.randn(4, 2)
    for ring in (queue, other, loaded):
        ring.enqueue(keys)
        assert torch.equal(ring.keys, queue.keys) and int(ring.position) == 2
    assert queue.keys.data_ptr() != other.keys.data_ptr()


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        MemoryQueue(4, 2).load_state_dict(MemoryQueue(5, 2).state_dict())
