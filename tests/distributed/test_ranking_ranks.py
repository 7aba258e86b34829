# SPDX-License-Identifier: Apache-2.0
"""On two gloo processes with different numbers of queries, the ranking loss is that of all of them at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranking_oracle import dense_ranking
from worlds import WorldsOf, caught

from sslkernels.functional.ranking import ranking

SIZES = 5, 3
EVERY = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "pairs": (0, {}),
    "negatives": (2, {}),
    "both ways": (1, {"directions": ("query_to_doc", "doc_to_query"), "joint": False}),
    "every direction": (1, {"directions": EVERY}),
    "every direction of pairs": (0, {"directions": EVERY, "normalize": False}),
    "harder": (2, {"harder": (5.0, 3.0), "directions": ("query_to_doc", "doc_to_query")}),
}


def columns(negatives: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(negatives)
    return [torch.randn(8, 6, dtype=torch.float64, generator=generator) for _ in range(negatives + 2)]


def case(loss: Any, name: str, part: slice, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    negatives, settings = CASES[name]
    weight = torch.eye(6, dtype=torch.float64, requires_grad=True)
    query, *documents = (each[part] @ weight for each in columns(negatives))
    value = loss(query, documents, 3.0, **settings, **more)
    value.backward()
    return value.detach(), weight.grad


def job(rank: int, world: int) -> dict[str, Any]:
    part = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    return {name: caught(lambda name=name: case(ranking, name, part, group="world")) for name in CASES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return WorldsOf(job, tmp_path_factory)(2)


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_ranks_is_that_of_all_queries(ranks, name):
    results = [rank[name] for rank in ranks]
    assert all(isinstance(each, tuple) for each in results), results
    value, gradient = case(dense_ranking, name, slice(None))
    torch.testing.assert_close(torch.stack([each[0] for each in results]).mean(), value)
    torch.testing.assert_close(torch.stack([each[1] for each in results]).mean(0), gradient)
