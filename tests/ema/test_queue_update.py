# SPDX-License-Identifier: Apache-2.0
"""Test queue_update_: the ring drops nothing, whatever the sizes, dtypes and strides."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sslkernels.functional as SF

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def written(queue: Tensor, keys: Tensor, position: int) -> Tensor:
    """Write one key after another."""
    queue = queue.clone()
    for place, key in enumerate(keys, position):
        queue[place % len(queue)] = key
    return queue


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keys_are_copied_bit_for_bit(backend: str, dtype: torch.dtype) -> None:
    """Every NaN keeps its bits, and so do subnormal numbers and both zeros, in whole vectors and in rests of them."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    kind = torch.iinfo(bits)
    infinity = torch.tensor(torch.inf, dtype=dtype).view(bits).item()
    odd = [0, 1, -1, kind.min, kind.min + 1, kind.max, infinity, infinity + 1, infinity - 1, infinity + 2**5 + 1]
    keys = torch.tensor([odd * 4, odd[::-1] * 4], dtype=bits)
    for width in (40, 37, 1):
        queue = torch.zeros(5, width, dtype=dtype)
        SF.queue_update_(queue, keys[:, :width].view(dtype), 4, backend=backend)
        assert torch.equal(queue.view(bits)[[4, 0]], keys[:, :width])


@given(
    size=st.integers(1, 9),
    dim=st.integers(1, 5),
    n=st.integers(0, 25),
    position=st.integers(0, 30),
    tensor=st.booleans(),
)
def test_every_key_lands_where_it_belongs(
    backend: str, size: int, dim: int, n: int, position: int, tensor: bool
) -> None:
    position %= size
    queue, keys = torch.randn(size, dim), torch.randn(n, dim)
    expected, kept = written(queue, keys, position), keys.clone()
    at = torch.tensor(position) if tensor else position
    following = SF.queue_update_(queue, keys, at, backend=backend)
    assert torch.equal(queue, expected) and torch.equal(keys, kept)
    assert following is at if tensor else isinstance(following, int)
    assert int(following) == (position + n) % size


@pytest.mark.parametrize(("queue_dtype", "keys_dtype"), list(product(DTYPES, DTYPES)), ids=str)
def test_keys_are_rounded_to_the_dtype_of_the_queue(
    backend: str, queue_dtype: torch.dtype, keys_dtype: torch.dtype
) -> None:
    keys = (torch.randn(300, 400) * 3).to(keys_dtype)  # these are enough for two threads
    queue = torch.zeros(301, 400, dtype=queue_dtype)
    SF.queue_update_(queue, keys, 200, backend=backend)
    assert torch.equal(queue, written(torch.zeros_like(queue), keys.to(queue_dtype), 200))


@pytest.mark.parametrize("dtype", (torch.int64, torch.int32, torch.uint8), ids=str)
def test_a_position_of_any_integer_dtype(backend: str, dtype: torch.dtype) -> None:
    queue, position = torch.zeros(4, 1), torch.tensor([3], dtype=dtype)
    assert SF.queue_update_(queue, torch.tensor([[1.0], [2.0]]), position, backend=backend) is position
    assert queue.flatten().tolist() == [2, 0, 0, 1] and position.tolist() == [1] and position.dtype == dtype


def test_strides(backend: str) -> None:
    whole = torch.zeros(6, 8)
    for queue in (whole[:, :3], whole[::2, 2:5], whole.T[:5, ::2], whole[:, 3:4]):
        keys = torch.randn(2 * queue.shape[1], len(queue) - 1).T
        for rows in (keys[:, : queue.shape[1]], keys[:, ::2], keys[:1, : queue.shape[1]].expand(3, -1)):
            whole.zero_()
            expected = written(queue, rows, 2)
            SF.queue_update_(queue, rows, 2, backend=backend)
            assert torch.equal(queue, expected) and whole.count_nonzero() == queue.count_nonzero()


def test_no_graph_and_a_new_version(backend: str) -> None:
    queue, keys = torch.zeros(3, 2), torch.ones(2, 2, requires_grad=True)
    product = (queue * torch.ones(3, 2, requires_grad=True)).sum()
    SF.queue_update_(queue, keys * 2, 0, backend=backend)
    assert not queue.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("reduction", ("mean", "none"))
def test_a_queue_may_be_written_between_forward_and_backward(backend: str, reduction: str) -> None:
    queue = torch.nn.functional.normalize(torch.randn(16, 4), dim=1)
    query, key = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    gradients = []
    for write in (False, True):
        loss = SF.info_nce(query, key, negatives=queue, reduction=reduction, backend=backend).sum()
        if write:
            SF.queue_update_(queue, torch.randn(9, 4), 12, backend=backend)
        gradients.append(torch.autograd.grad(loss, query)[0])
    assert torch.equal(*gradients)


def test_rows_of_the_ring_itself(backend: str) -> None:
    queue = torch.arange(6.0)[:, None].expand(6, 3).clone()
    expected = queue[[0, 1, 0, 1, 2, 3]]
    SF.queue_update_(queue, queue[:4], 2, backend=backend)
    assert torch.equal(queue, expected)


def test_positions_that_a_narrow_or_wide_number_cannot_hold(backend: str) -> None:
    position = torch.tensor(190, dtype=torch.uint8)
    SF.queue_update_(torch.zeros(200, 1), torch.ones(100, 1), position, backend=backend)
    assert int(position) == 90
    for beyond in (3, 10**19, torch.tensor(3), torch.tensor(-1)):
        with pytest.raises(ValueError, match=r"queue_update_: position is -?\d+; pass a whole number from 0 to 2\."):
            SF.queue_update_(torch.zeros(3, 1), torch.ones(2, 1), beyond, backend=backend)
    with pytest.raises(ValueError, match="is expanded; pass"):
        SF.queue_update_(torch.zeros(1, 3).expand(4, 3), torch.ones(2, 3), 0, backend=backend)
