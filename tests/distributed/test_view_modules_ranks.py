# SPDX-License-Identifier: Apache-2.0
"""Run lightly's losses of two views on two gloo processes, with equal and unequal numbers of rows.

The mean of losses and of parameter gradients over ranks is that of one process with all rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from worlds import WorldsOf, caught

from sslkernels.losses import DCLLoss, DCLWLoss, DirectCLRLoss

D_IN, D = 4, 5
ROWS = ((3, 3), (5, 2), (4, 0))  # rows of each rank


def near(x: Tensor, y: Tensor) -> Tensor:
    return 1 + (x - y).square().sum(1)


LOSSES: dict[str, Callable[[bool], nn.Module]] = {
    "DCLLoss": lambda gathered: DCLLoss(0.3, None, gathered),
    "DCLLoss weighted": lambda gathered: DCLLoss(0.3, near, gathered),
    "DCLLoss with one weight": lambda gathered: DCLLoss(0.3, lambda x, y: 0.5, gathered),
    "DCLWLoss": lambda gathered: DCLWLoss(0.3, 0.2, gathered),
    "DirectCLRLoss": lambda gathered: DirectCLRLoss(3, 0.3, 0, gathered),
}


def run(name: str, sizes: tuple[int, ...], rank: int | None) -> dict[str, Tensor]:
    """Compute value and gradients for one rank's rows, or for all (None)."""
    generator = torch.Generator().manual_seed(7)
    x0, x1 = torch.randn(2, sum(sizes), D_IN, dtype=torch.float64, generator=generator)
    weight = torch.randn(D_IN, D, dtype=torch.float64, generator=generator).requires_grad_()
    rows = slice(None) if rank is None else slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    value = LOSSES[name](rank is not None)(x0[rows] @ weight, x1[rows] @ weight)
    value.backward()
    return {"value": value.detach(), "weight": weight.grad}


def job(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    return {f"{name} {sizes}": caught(run, name, sizes, rank) for name in LOSSES for sizes in ROWS}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("sizes", ROWS, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_ranks_together_equal_one_process(worlds: WorldsOf, name: str, sizes: tuple[int, ...]) -> None:
    ranks = [results[f"{name} {sizes}"] for results in worlds(2)]
    assert all(isinstance(found, dict) for found in ranks), ranks
    for key, exact in run(name, sizes, None).items():
        torch.testing.assert_close(torch.stack([found[key] for found in ranks]).mean(0), exact, rtol=1e-9, atol=1e-9)
