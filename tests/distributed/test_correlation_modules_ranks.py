# SPDX-License-Identifier: Apache-2.0
"""Run the correlation modules on two and three gloo processes, even with unequal numbers of rows.

The mean of losses and of parameter gradients over ranks is that of one process with all rows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from worlds import WorldsOf

from sslkernels.losses import BarlowTwinsLoss, FroSSLLoss, TiCoLoss, VCRegLoss, VIbCRegLoss, VICRegLoss

D_IN = 4
ROWS = {2: (3, 2), 3: (2, 4, 3)}  # rows of each rank, by world size
Loss = Callable[[Tensor, Tensor], Tensor]


def twice(loss: TiCoLoss) -> Loss:
    """Call the loss twice: the second call reads the covariance of the first, which must be that of all rows."""

    def call(a: Tensor, b: Tensor) -> Tensor:
        loss(b, a)
        return loss(a, b)

    return call


LOSSES: dict[str, Callable[[bool], Loss]] = {
    "barlow official": lambda gathered: BarlowTwinsLoss(0.1, gathered, convention="official"),
    "barlow statistics of each rank": lambda gathered: BarlowTwinsLoss(0.1, gathered),
    "vicreg": lambda gathered: VICRegLoss(gather_distributed=gathered),
    "vicreg solo-learn": lambda gathered: VICRegLoss(gather_distributed=gathered, convention="solo-learn"),
    "vcreg": lambda gathered: lambda a, b: VCRegLoss(gather_distributed=gathered)(a),
    "vibcreg": lambda gathered: VIbCRegLoss(gather_distributed=gathered),
    "frossl": lambda gathered: lambda a, b: FroSSLLoss(0.7, gathered)([a, b, a + b]),
    "tico": lambda gathered: twice(TiCoLoss(gather_distributed=gathered)),
}
WIDTHS = (3, 12)  # fewer features than all rows, and more, so that both sides run
WHOLE = [name for name in LOSSES if "each rank" not in name]


def problem(world: int, width: int) -> tuple[Tensor, Tensor, nn.Linear]:
    generator = torch.Generator().manual_seed(world * 100 + width)
    x0, x1 = torch.randn(2, sum(ROWS[world]), D_IN, dtype=torch.float64, generator=generator)
    encoder = nn.Linear(D_IN, width, dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.copy_(torch.randn(width, D_IN, dtype=torch.float64, generator=generator) / 3)
        encoder.bias.fill_(0.3)
    return x0, x1, encoder


def run(name: str, world: int, width: int, rank: int | None) -> dict[str, Tensor]:
    """Compute value and gradients for one rank's rows, or for all (None)."""
    x0, x1, encoder = problem(world, width)
    rows = slice(None) if rank is None else slice(sum(ROWS[world][:rank]), sum(ROWS[world][: rank + 1]))
    value = LOSSES[name](rank is not None)(encoder(x0[rows]), encoder(x1[rows]))
    value.backward()
    return {"value": value.detach(), "weight": encoder.weight.grad, "bias": encoder.bias.grad}


def every_case(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    return {f"{name} {width}": run(name, world, width, rank) for name in LOSSES for width in WIDTHS}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(every_case, tmp_path_factory)


@pytest.fixture(params=[2, 3])
def world(request: pytest.FixtureRequest, worlds: WorldsOf) -> list[dict[str, dict]]:
    """Return results by rank."""
    return worlds(request.param)


def averaged(world: list[dict[str, dict]], case: str) -> dict[str, Tensor]:
    return {key: torch.stack([rank[case][key] for rank in world]).mean(0) for key in world[0][case]}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", WHOLE)
def test_ranks_together_equal_one_process(world: list[dict[str, dict]], name: str, width: int) -> None:
    whole = run(name, len(world), width, None)
    for key, value in averaged(world, f"{name} {width}").items():
        torch.testing.assert_close(value, whole[key], rtol=1e-8, atol=1e-8, msg=lambda m: f"{key}: {m}")  # noqa: B023


@pytest.mark.parametrize("width", WIDTHS)
def test_barlow_standardises_with_each_ranks_statistics(world: list[dict[str, dict]], width: int) -> None:
    """The loss is lightly's: the formula over the statistics that one process would find rank by rank."""
    sizes = ROWS[len(world)]
    x0, x1, encoder = problem(len(world), width)

    def standard(x: Tensor) -> Tensor:
        parts = encoder(x).split(sizes)
        return torch.cat([(z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in parts])

    c = standard(x0).T @ standard(x1) / sum(sizes)
    off = c - torch.diag(c.diagonal())
    value = (c.diagonal() - 1).square().sum() + 0.1 * off.square().sum()
    value.backward()
    found = averaged(world, f"barlow statistics of each rank {width}")
    torch.testing.assert_close(found["value"], value.detach())
    torch.testing.assert_close(found["weight"], encoder.weight.grad, rtol=1e-7, atol=1e-7)
