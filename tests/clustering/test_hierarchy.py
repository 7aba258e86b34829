# SPDX-License-Identifier: Apache-2.0
"""Levels of clusters are made of those below, and samples are as even as sizes allow, at every level."""

from __future__ import annotations

import pytest
import torch

import sslkernels.functional as SF

NESTED = torch.tensor([0] * 50 + [1] * 6 + [2] * 3 + [3] * 40 + [4] * 1)
PARENTS = torch.tensor([0, 0, 0, 1, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def water(sizes: list[int], count: int) -> list[int]:
    """Give one to each in turn until none is left; the last turn may end anywhere."""
    given = [0] * len(sizes)
    while sum(given) < count:
        thirsty = [k for k, size in enumerate(sizes) if given[k] < size]
        for k in thirsty[: count - sum(given)]:
            given[k] += 1
    return given


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_each_level_is_kmeans_of_the_centroids_below(metric: str, backend: str) -> None:
    x = torch.randn(120, 6, dtype=torch.float64)
    options = {"metric": metric, "backend": backend, "iterations": 4}
    levels = SF.hierarchical_kmeans(x, (30, 8, 2), generator=seeded(), **options)
    generator, rows, place = seeded(), x, torch.arange(120)
    for size, (centroids, assignment) in zip((30, 8, 2), levels, strict=True):
        wanted, found = SF.kmeans(rows, size, generator=generator, **options)
        place = found[place]
        assert torch.equal(centroids, wanted) and torch.equal(assignment, place)
        rows = wanted


@pytest.mark.parametrize("count", [0, 1, 4, 5, 17, 50, 99, 100])
def test_the_cut_is_that_of_filling_in_turn(count: int) -> None:
    sample = SF.balanced_sample(NESTED, count, generator=seeded())
    assert sample.dtype == torch.int64 and len(sample.unique()) == len(sample) == count
    taken = NESTED[sample].bincount(minlength=5).tolist()
    assert sorted(taken) == sorted(water([50, 6, 3, 40, 1], count))


@pytest.mark.parametrize("count", [1, 9, 40, 82, 83, 99, 100])
def test_levels_are_balanced_from_the_highest_on(count: int) -> None:
    sample = SF.balanced_sample([NESTED, PARENTS[NESTED]], count, generator=seeded())
    taken = NESTED[sample].bincount(minlength=5).tolist()
    parents = sum(taken[:3]), sum(taken[3:])
    assert sorted(parents) == sorted(water([59, 41], count))
    assert sorted(taken[:3]) == sorted(water([50, 6, 3], parents[0]))
    assert sorted(taken[3:]) == sorted(water([40, 1], parents[1]))


def test_rows_of_a_cluster_are_as_likely_and_so_are_clusters_of_the_last_turn() -> None:
    generator, drawn = seeded(), torch.zeros(100)
    for _ in range(300):
        drawn[SF.balanced_sample(NESTED, 7, generator=generator)] += 1
    turns = torch.stack([part.sum() for part in drawn.split([50, 6, 3, 40, 1])]) / 300
    assert (turns[:4] - 1.5).abs().max() < 0.12 and turns[4] == 1
    assert (drawn[:50] / 300 - 1.5 / 50).abs().max() < 0.04 and (drawn[50:56] / 300 - 1.5 / 6).abs().max() < 0.1


def test_any_numbers_name_clusters() -> None:
    names = torch.tensor([7, 2**60, 0, 3, 5])
    one, other = (SF.balanced_sample(labels, 20, generator=seeded()) for labels in (NESTED, names[NESTED]))
    assert sorted(NESTED[one].bincount().tolist()) == sorted(NESTED[other].bincount().tolist())


def test_levels_in_the_wrong_order() -> None:
    with pytest.raises(ValueError, match="balanced_sample: assignment has a cluster with rows in several"):
        SF.balanced_sample([PARENTS[NESTED], NESTED], 3)
