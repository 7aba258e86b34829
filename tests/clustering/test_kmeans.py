# SPDX-License-Identifier: Apache-2.0
"""kmeans against a plain one in float64, where clusters are known, empty or alike, and in every dtype."""

from __future__ import annotations

from typing import Any

import clustering_oracle as oracle
import pytest
import torch
from torch import Tensor

import sslkernels.functional as SF
from sslkernels.distributed import Shard
from sslkernels.functional import clustering
from sslkernels.functional.balance import balanced_nearest
from sslkernels.functional.lloyd import TOGETHER, nearest, sums_and_counts

CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def blobs(clusters: int = 5, each: int = 30, features: int = 7, apart: float = 20.0) -> tuple[Tensor, Tensor]:
    """Draw rows around some centres, in random order, and say of which centre each is."""
    label = torch.arange(clusters).repeat_interleave(each)[torch.randperm(clusters * each)]
    centres = apart * torch.eye(max(clusters, features), dtype=torch.float64)[:clusters, :features]
    return centres[label] + torch.randn(len(label), features, dtype=torch.float64), label


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("empty", ["split", "farthest", "keep"])
def test_is_lloyds_iteration(metric: str, empty: str, backend: str) -> None:
    x = torch.randn(150, 4, dtype=torch.float64)
    # Two starts that are alike: the second has no row. One lies far away, or opposite to the rows.
    init = torch.cat([x[:4], x[3:4], 30 + x[:1]])
    for iterations in (0, 1, 2, 5):
        wanted, places = oracle.kmeans(x, init, metric, iterations, empty)
        found = SF.kmeans(x, 6, metric=metric, iterations=iterations, init=init, empty=empty, backend=backend)
        torch.testing.assert_close(found[0], wanted, rtol=1e-11, atol=1e-11)
        assert torch.equal(found[1], places)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_balanced_clusters_are_those_of_sinkhorn_knopp(metric: str, backend: str) -> None:
    x = torch.cat([torch.randn(130, 4, dtype=torch.float64), 3 + torch.randn(20, 4, dtype=torch.float64)]) + 5
    for empty, start in (("keep", x[:6]), ("split", torch.cat([x[:5], x[4:5]]))):
        for temperature in (0.2, 0.05):
            wanted, places = oracle.kmeans(x, start, metric, 3, empty, temperature)
            found = SF.kmeans(
                x, 6, metric=metric, iterations=3, init=start, empty=empty, balanced=True, temperature=temperature,
                backend=backend,
            )  # fmt: skip
            torch.testing.assert_close(found[0], wanted, rtol=1e-9, atol=1e-9)
            assert torch.equal(found[1], places)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_balanced_rows_are_as_far_from_their_centroids_as_others(metric: str, backend: str) -> None:
    x, centroids = torch.randn(40, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    if metric == "cosine":
        x, centroids = oracle.unit(x), oracle.unit(centroids)
    distance, own = balanced_nearest(x, centroids, metric, 0.1, None, backend)
    far = oracle.distances(x, centroids, metric)
    torch.testing.assert_close(distance, far[torch.arange(40), own])
    assert (own != far.argmin(1)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_balanced_clusters_have_about_the_same_size(dtype: torch.dtype) -> None:
    x = torch.cat([torch.randn(700, 8), 3 * torch.randn(260, 8)]).to(dtype) + 10
    uneven = []
    for balanced in (False, True):
        sizes = SF.kmeans(x, 12, balanced=balanced, iterations=20, generator=seeded())[1].bincount(minlength=12)
        uneven.append(float(sizes.double().square().mean()) / 80**2)  # 1 where all have 80 rows
    assert uneven[0] > 1.2 and uneven[1] < 1.05


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_every_dtype_is_summed_in_the_wide_one(metric: str, dtype: torch.dtype, backend: str) -> None:
    x, label = blobs(features=67)
    x = x.to(dtype)
    start = torch.stack([x[label == k][0] for k in range(5)])
    centroids, assignment = SF.kmeans(x, 5, metric=metric, init=start, backend=backend)
    wanted, places = oracle.kmeans(x, start, metric)
    assert centroids.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(assignment, places) and torch.equal(assignment, label)
    # Cosine rounds its unit rows to 16 bits; means of rows are those of float32.
    close = CLOSE[dtype] if metric == "cosine" else min(CLOSE[dtype], 2e-5)
    torch.testing.assert_close(centroids.double(), wanted, rtol=close, atol=close)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_clusters_are_found_from_any_start(metric: str) -> None:
    """k-means++ starts in every one of clusters that lie far apart; random starts need the largest to be split."""
    x, label = blobs(apart=300.0)
    for seed in range(5):
        _, assignment = SF.kmeans(x, 5, metric=metric, generator=seeded(seed))
        assert len(torch.stack([assignment, label]).unique(dim=1).T) == len(assignment.unique()) == 5


def test_random_starts_are_different_rows() -> None:
    x = torch.arange(12.0)[:, None]
    for seed in range(3):
        starts = SF.kmeans(x, 12, init="random", iterations=0, generator=seeded(seed))[0]
        assert starts.flatten().sort().values.tolist() == list(range(12))
        assert starts.flatten().tolist() != list(range(12))


def test_starts_are_drawn_by_squared_distance() -> None:
    """The last of three rows is 10 from the others, which are 1 apart: after the first it is drawn with 100/101."""
    x = torch.tensor([[0.0], [1.0], [10.0]])
    generator, pairs = seeded(), []
    for _ in range(400):
        pairs.append(SF.kmeans(x, 2, iterations=0, generator=generator)[0].flatten().tolist())
    firsts = [sum(pair[0] == row for pair in pairs) / 400 for row in (0.0, 1.0, 10.0)]
    assert all(abs(share - 1 / 3) < 0.1 for share in firsts)
    after_last = [pair[1] for pair in pairs if pair[0] == 10.0]
    assert abs(sum(row == 0.0 for row in after_last) / len(after_last) - 100 / 181) < 0.15
    assert sum(set(pair) == {0.0, 1.0} for pair in pairs) < 16


def test_one_centroid_is_the_mean_and_as_many_as_rows_are_the_rows(backend: str) -> None:
    x = torch.randn(40, 3, dtype=torch.float64)
    centroids, assignment = SF.kmeans(x, 1, backend=backend)
    torch.testing.assert_close(centroids, x.mean(0, keepdim=True))
    assert not assignment.any()
    centroids, assignment = SF.kmeans(x, 40, generator=seeded(), backend=backend)
    torch.testing.assert_close(centroids[assignment], x)
    assert len(assignment.unique()) == 40


def test_fewer_different_rows_than_centroids(backend: str) -> None:
    """Clusters of equal rows cannot be split, though the mean of float32 rows may differ from them by a rounding."""
    x = torch.tensor([[0.1, 0.7], [5.3, -2.1]]).repeat(7, 1)
    for empty in ("split", "farthest", "keep"):
        for init in ("k-means++", "random"):
            centroids, assignment = SF.kmeans(
                x, 6, empty=empty, init=init, iterations=50, generator=seeded(), backend=backend
            )
            assert centroids.isfinite().all()
            torch.testing.assert_close(centroids[assignment], x)
            assert len(assignment.unique()) == 2


def test_it_ends_when_no_row_moves_and_splits_no_equal_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []

    def counted(*given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        searches.append(1)
        return nearest(*given, **options)

    monkeypatch.setattr(clustering, "nearest", counted)
    same = torch.rand(1, 40).repeat(900, 1)
    assert (same.mean(0) != same[0]).any()
    x = torch.cat([same, same[:3] + 5, same[:3] + 6])
    _, assignment = SF.kmeans(x, 3, init=torch.cat([x[:1] + 0.01, x[900:901], x[:1] + 99]), iterations=50)
    assert sorted(assignment.bincount().tolist()) == [3, 3, 900]
    assert len(searches) < 6


def test_a_large_cluster_is_split_before_a_small_one() -> None:
    x = torch.cat([torch.randn(60, 2), torch.tensor([[90.0, 0.0], [94.0, 0.0]])])
    init = torch.tensor([[0.0, 0.0], [90.0, 0.0], [-900.0, 0.0]])
    sizes = {
        empty: SF.kmeans(x, 3, init=init, iterations=1, empty=empty)[1].bincount(minlength=3).tolist()
        for empty in ("split", "farthest", "keep")
    }
    assert sizes["split"][1] == 2 and min(sizes["split"]) > 1
    assert sizes["farthest"][0] == 60 and min(sizes["farthest"]) == 1
    assert sizes["keep"] == [60, 2, 0]


def test_no_place_is_the_origin() -> None:
    """Moved or scaled rows have the same clusters, also where squares leave the range of float32."""
    x = torch.randint(-8, 9, (90, 3)).float()
    starts = torch.cat([x[:5], 1000 + x[:1]])
    wanted = SF.kmeans(x, 6, init=starts)
    for scale, shift in ((1.0, 4096.0), (2.0**100, 0.0), (2.0**-100, 0.0), (2.0**-140, 0.0)):
        centroids, assignment = SF.kmeans(x * scale + shift, 6, init=starts * scale + shift)
        assert torch.equal(assignment, wanted[1])
        torch.testing.assert_close((centroids - shift) / scale, wanted[0], rtol=1e-5, atol=2e-3)


def test_same_generator_same_bits() -> None:
    x = torch.randn(200, 5)
    for init in ("k-means++", "random"):
        torch.manual_seed(3)
        unseeded = [SF.kmeans(x, 9, init=init) for _ in range(2)]
        torch.manual_seed(3)
        first, again = (SF.kmeans(x, 9, init=init, generator=seeded(1)) for _ in range(2))
        for one, other in ((first, again), (unseeded[0], SF.kmeans(x, 9, init=init))):
            assert all(map(torch.equal, one, other))
        assert not torch.equal(unseeded[0][0], unseeded[1][0])


def test_sums_of_large_clusters_keep_their_digits() -> None:
    x = 0.1 + torch.rand(40 * TOGETHER, 2)
    assignment = torch.where(torch.rand(len(x)) < 0.9, 3, torch.randint(0, 6, (len(x),)))
    assignment[assignment == 4] = 5
    sums, counts = sums_and_counts(x, assignment, 7, Shard.alone)
    assert torch.equal(counts, assignment.bincount(minlength=7))
    exact = torch.stack([x[assignment == k].double().sum(0) for k in range(7)])
    torch.testing.assert_close(sums.double(), exact, rtol=2e-6, atol=0)


def test_rows_keep_their_values_and_nothing_has_a_gradient() -> None:
    x, init = torch.randn(30, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    before, start = x.detach().clone(), init.detach().clone()
    centroids, assignment = SF.kmeans(x[:, ::2], 3, init=init[:, ::2])
    assert torch.equal(x, before) and torch.equal(init, start)
    assert not centroids.requires_grad and not assignment.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        inside = SF.kmeans(x[:, ::2], 3, init=init[:, ::2])
    assert torch.equal(inside[0], centroids) and torch.equal(inside[1], assignment)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"k": 5}, "k is 5 and there are 4 rows; pass a k from 1 to their number."),
        ({"x": torch.tensor([[1.0, float("nan")]] * 4)}, "x holds NaN or an infinite number; leave such rows out."),
        ({"x": torch.tensor([[1.0, float("inf")]] * 4)}, "x holds NaN or an infinite number; leave such rows out."),
        ({"x": torch.zeros(0, 2)}, "k is 2 and there are 0 rows"),
        ({"init": torch.zeros(3, 2)}, "init has shape (3, 2); expected (2, 2), one centroid each."),
        ({"init": torch.full((2, 2), float("inf"))}, "init holds NaN or an infinite number"),
        ({"init": "faiss"}, "init is 'faiss'; accepted are 'k-means++', 'random' and centroids (K, D)."),
        ({"iterations": -1}, "iterations is -1; pass a whole number of at least 0."),
    ],
    ids=str,
)
def test_mistakes(wrong: dict, text: str) -> None:
    with pytest.raises(ValueError) as raised:
        SF.kmeans(**{"x": torch.zeros(4, 2), "k": 2, **wrong})
    assert str(raised.value).startswith("kmeans: ") and text in str(raised.value)
