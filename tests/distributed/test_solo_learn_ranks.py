# SPDX-License-Identifier: Apache-2.0
"""The functions of solo-learn that gather, on two and three gloo processes.

The mean of values and of parameter gradients over ranks is that of one process with all rows; for Barlow Twins, that of
the mean of the ranks' cross-correlations, each of rows that the rank has standardised alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from worlds import WorldsOf, caught

from sslkernels.losses import solo_learn

IN, D, EACH = 4, 5, 6  # features before and after the weights, and rows of each rank
FUNCTIONS = ("simclr", "nnclr", "mocov3", "vicreg", "vibcreg", "barlow")


def barlow(z1: Tensor, z2: Tensor) -> Tensor:
    """The formula, over blocks of rows that are standardised alone."""
    standard = [
        torch.cat([(x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() for x in z.split(EACH)]) for z in (z1, z2)
    ]
    squares = (standard[0].T @ standard[1] / len(z1) - torch.eye(D)).square()
    return 0.025 * (5e-3 * squares.sum() + (1 - 5e-3) * squares.trace())


def run(name: str, world: int, rank: int | None) -> dict[str, Tensor]:
    """Compute value and gradients for one rank's rows, or for all (None)."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, world * EACH, IN, dtype=torch.float64, generator=generator)
    weights = [torch.randn(IN, D, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]
    own = slice(None) if rank is None else slice(rank * EACH, rank * EACH + EACH)
    z1, z2 = (view[own] @ weight for view, weight in zip(x, weights, strict=True))
    if name == "simclr":  # some samples are on two ranks, and one class has three rows more
        indexes = torch.arange(world * EACH)[own] % (EACH + 3)
        value = solo_learn.simclr_loss_func(torch.cat([z1, z2]), indexes.repeat(2), 0.3)
    elif name == "barlow" and rank is None:
        value = barlow(z1, z2)
    else:
        value = getattr(solo_learn, f"{name}_loss_func")(z1, z2)
    value.backward()
    return {"value": value.detach(), **{f"weight {at}": weight.grad for at, weight in enumerate(weights)}}


def job(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    return {name: caught(run, name, world, rank) for name in FUNCTIONS}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ranks_together_equal_one_process(worlds: WorldsOf, name: str, world: int) -> None:
    ranks = [results[name] for results in worlds(world)]
    assert all(isinstance(found, dict) for found in ranks), ranks
    for key, exact in run(name, world, None).items():
        together = torch.stack([found[key] for found in ranks]).mean(0)
        torch.testing.assert_close(together, exact, rtol=1e-8, atol=1e-10, msg=lambda m: f"{key}: {m}")  # noqa: B023
