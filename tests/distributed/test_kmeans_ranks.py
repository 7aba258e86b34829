# SPDX-License-Identifier: Apache-2.0
"""On two and three gloo processes, of which one may hold no row, kmeans and its levels are those of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worlds import WorldsOf, caught

import sslkernels.functional as SF

ROWS = 60
SIZES = {2: (41, 19), 3: (25, 0, 35)}
WORLDS = (3, pytest.param(2, marks=pytest.mark.slow))
CASES: dict[str, dict[str, Any]] = {
    "k-means++": {},
    "cosine": {"metric": "cosine"},
    "random": {"init": "random", "empty": "farthest"},
    "split": {"init": torch.tensor([0, 0, 1, 2, 3]), "empty": "split"},
    "farthest": {"init": torch.tensor([0, 0, 1, 59, 3]), "empty": "farthest"},
    "keep": {"init": torch.tensor([0, 0, 1, 2, 3]), "empty": "keep"},
    "balanced": {"balanced": True},
    "balanced cosine": {"metric": "cosine", "balanced": True},
    "cosine, split": {"metric": "cosine", "init": torch.tensor([0, 0, 1, 2, 3])},
}


def rows() -> torch.Tensor:
    return torch.randn(ROWS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def case(name: str, part: slice, rank: int, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Only the first rank's generator and start may count."""
    x, options = rows(), dict(CASES[name])
    if isinstance(options.get("init"), torch.Tensor):
        options["init"] = x[options["init"]] + rank
    return SF.kmeans(x[part], 5, generator=torch.Generator().manual_seed(rank), **options, **more)


def levels(part: slice, rank: int, **more: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return SF.hierarchical_kmeans(rows()[part], (20, 5, 2), generator=torch.Generator().manual_seed(rank), **more)


def job(rank: int, world: int) -> dict[str, Any]:
    start = sum(SIZES[world][:rank])
    part = slice(start, start + SIZES[world][rank])
    results = {name: caught(lambda name=name: case(name, part, rank, group="world")) for name in CASES}
    results["levels"] = caught(lambda: levels(part, rank, group="world"))
    broken = rows()[part]
    broken[:1] = torch.nan if rank == world - 1 else 0.0
    results["broken"] = caught(lambda: SF.kmeans(broken, 2, group="world"))
    results["many"] = caught(lambda: SF.kmeans(rows()[part], ROWS + 1, group="world"))
    return results


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> WorldsOf:
    return WorldsOf(job, tmp_path_factory)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", CASES)
def test_ranks_find_what_one_process_finds(worlds: WorldsOf, world: int, name: str) -> None:
    centroids, assignment = case(name, slice(None), 0)
    found = [rank[name] for rank in worlds(world)]
    assert all(isinstance(each, tuple) for each in found), found
    for each in found:
        assert torch.equal(each[0], found[0][0])
    torch.testing.assert_close(found[0][0], centroids, rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.cat([each[1] for each in found]), assignment)


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_find_the_levels_that_one_process_finds(worlds: WorldsOf, world: int) -> None:
    found = [rank["levels"] for rank in worlds(world)]
    assert all(isinstance(each, list) for each in found), found
    for place, (centroids, assignment) in enumerate(levels(slice(None), 0)):
        for each in found:
            torch.testing.assert_close(each[place][0], centroids, rtol=1e-12, atol=1e-12)
        assert torch.equal(torch.cat([each[place][1] for each in found]), assignment)


@pytest.mark.parametrize("world", WORLDS)
def test_all_ranks_raise_what_one_cannot_take(worlds: WorldsOf, world: int) -> None:
    for rank in worlds(world):
        assert "x holds NaN or an infinite number on some rank; leave such rows out." in rank["broken"]
        assert f"k is {ROWS + 1} and there are {ROWS} rows" in rank["many"]
