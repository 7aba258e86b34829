# SPDX-License-Identifier: Apache-2.0
"""KoLeo over ranks is that of all rows: with groups that ranks share, groups of one rank, and ranks of unlike sizes."""

from __future__ import annotations

from typing import Any

import formulas
import pytest
import torch
from worlds import WorldsOf, caught

import sslkernels.functional as SF

# Rows of each rank, and the size of groups.
CASES = {
    "one group": ((5, 7), None),
    "groups of one rank": ((8, 4), 4),
    "groups that ranks share": ((5, 7), 4),
    "a rank without rows": ((0, 6), None),
    "a rank without rows, and groups": ((6, 0), 3),
}


def rows_of(sizes: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(sum(sizes), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def run(rank: int, sizes: tuple[int, ...], group_size: int | None) -> list[torch.Tensor]:
    x = rows_of(sizes).split(sizes)[rank].clone().requires_grad_()
    value = SF.koleo(x, group_size=group_size, group="world")
    return [value.detach(), *torch.autograd.grad(value, x)]


def job(rank: int, world: int) -> dict[str, Any]:
    return {name: caught(run, rank, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("name", CASES)
def test_ranks_together_give_value_and_gradient_of_one_process(worlds: WorldsOf, name: str) -> None:
    sizes, group_size = CASES[name]
    x = rows_of(sizes).requires_grad_()
    wanted = formulas.koleo(x, group_size=group_size).mean()
    (slopes,) = torch.autograd.grad(wanted, x)
    results = [result[name] for result in worlds(2)]
    assert all(isinstance(result, list) for result in results), results
    torch.testing.assert_close((results[0][0] + results[1][0]) / 2, wanted.detach())
    torch.testing.assert_close(torch.cat([grad for _, grad in results]) / 2, slopes)
