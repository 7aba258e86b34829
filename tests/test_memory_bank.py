# SPDX-License-Identifier: Apache-2.0
"""MemoryBank holds a unit row for each sample, which moves to the sample's embeddings and nowhere else."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sslkernels import MemoryBank


def moved(rows: Tensor, index: list[int], new: Tensor, momentum: float) -> Tensor:
    """Blend sample by sample; of a sample that comes twice the last row alone is blended, with the row before all."""
    after = rows.clone()
    for sample, row in zip(index, new, strict=True):
        blended = momentum * rows[sample] + (1 - momentum) * row
        after[sample] = blended / blended.square().sum().sqrt()
    return after


def test_starts_with_unit_rows_that_differ() -> None:
    bank = MemoryBank(6, 5)
    torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(6))
    assert bank.rows.unique(dim=0).shape == (6, 5) and bank.momentum == 0.5
    assert not bank.rows.requires_grad and list(bank.parameters()) == []


@given(
    samples=st.integers(1, 7), batches=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    momentum=st.sampled_from([0.0, 0.3, 0.5, 0.9]), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_update_is_the_formula(samples: int, batches: list[int], momentum: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank = MemoryBank(samples, 3, momentum).double()
    before = bank.rows.data_ptr()
    for batch in batches:
        index = torch.randint(samples, (batch,), generator=generator)
        rows = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
        expected = moved(bank.rows, index.tolist(), rows, momentum)
        bank.update(index.int() if batch % 2 else index, rows)
        torch.testing.assert_close(bank.rows, expected, rtol=1e-12, atol=1e-12)
    assert bank.rows.data_ptr() == before


def test_a_momentum_of_one_keeps_every_row() -> None:
    bank = MemoryBank(4, 3, momentum=1.0)
    before = bank.rows.clone()
    bank.update(torch.arange(4), torch.randn(4, 3))
    torch.testing.assert_close(bank.rows, before)


def test_an_update_keeps_no_graph_and_no_alias() -> None:
    bank, rows = MemoryBank(2, 2, momentum=0.0), torch.eye(2).requires_grad_()
    bank.update(torch.arange(2), rows * 1)
    with torch.no_grad():
        rows.zero_()
    assert torch.equal(bank.rows, torch.eye(2)) and not bank.rows.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_rows_of_another_dtype_are_converted(dtype: torch.dtype) -> None:
    bank = MemoryBank(2, 2, momentum=0.0)
    bank.update(torch.tensor([1]), torch.tensor([[3.0, 4.0]], dtype=dtype))
    torch.testing.assert_close(bank.rows[1], torch.tensor([0.6, 0.8]))
    other = MemoryBank(2, 2, momentum=0.0).to(dtype)
    other.update(torch.tensor([1]), torch.tensor([[3.0, 4.0]]))
    assert other.rows.dtype == dtype
    torch.testing.assert_close(other.rows[1], torch.tensor([0.6, 0.8], dtype=dtype))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda bank: pickle.loads(pickle.dumps(bank))], ids=["deepcopy", "pickle"]
)
def test_state_and_copies_go_on_alike(duplicate) -> None:
    bank = MemoryBank(5, 2)
    bank.update(torch.arange(3), torch.randn(3, 2))
    other, loaded = duplicate(bank), MemoryBank(5, 2)
    loaded.load_state_dict(bank.state_dict())
    index, rows = torch.tensor([4, 0]), torch.randn(2, 2)
    for each in (bank, other, loaded):
        each.update(index, rows)
        assert torch.equal(each.rows, bank.rows)
    assert len({each.rows.data_ptr() for each in (bank, other, loaded)}) == 3


def test_a_state_of_another_size_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"):
        MemoryBank(4, 2).load_state_dict(MemoryBank(5, 2).state_dict())
