# SPDX-License-Identifier: Apache-2.0
"""Spread rows over prototypes, and move a centre, on two and three gloo processes with unlike numbers of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worlds import WorldsOf, caught

import sslkernels.functional as SF

ROWS = {2: (7, 4), 3: (5, 0, 6)}  # a rank may have none
WORLDS = (2, pytest.param(3, marks=pytest.mark.slow))


def drawn(world: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(world)
    counts = torch.rand(sum(ROWS[world]), dtype=torch.float64)
    counts[2] = 0
    return torch.randn(len(counts), 6, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64), counts


def job(rank: int, world: int) -> dict[str, Any]:
    rows, weight, counts = drawn(world)
    part, of_part = rows.split(ROWS[world])[rank], counts.split(ROWS[world])[rank]

    def spread(backend: str, **options: Any) -> torch.Tensor:
        return SF.sinkhorn_bias(part, weight, 0.3, group="world", backend=backend, **options)

    def centre() -> torch.Tensor:
        center = torch.ones(1, 9, dtype=torch.float64)
        SF.center_update_(center, part, weight, 0.7, group="world")
        return center

    found = {f"spread on {backend}": caught(spread, backend) for backend in ("cpu", "reference")}
    found |= {"spread by weight": caught(lambda: spread("cpu", row_weight=of_part)), "centre": caught(centre)}
    found["spread by no weight"] = caught(lambda: spread("cpu", row_weight=torch.zeros_like(of_part)))
    found["spread apart"] = caught(lambda: SF.sinkhorn_bias(rows, weight, 0.3))
    return found


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_spread_their_rows_as_one_process_does(worlds: WorldsOf, world: int) -> None:
    rows, weight, counts = drawn(world)
    wanted = SF.sinkhorn_bias(rows, weight, 0.3)
    weighed = SF.sinkhorn_bias(rows, weight, 0.3, row_weight=counts)
    for found in worlds(world):
        for name in ("spread on cpu", "spread on reference", "spread apart"):
            torch.testing.assert_close(found[name], wanted)
        torch.testing.assert_close(found["spread by weight"], weighed)
        assert not found["spread by no weight"].any()


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_move_one_centre(worlds: WorldsOf, world: int) -> None:
    rows, weight, _ = drawn(world)
    wanted = 0.7 + 0.3 * (rows @ weight.T).mean(0, keepdim=True)
    for found in worlds(world):
        torch.testing.assert_close(found["centre"], wanted)
