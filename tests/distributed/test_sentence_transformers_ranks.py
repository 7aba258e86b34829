# SPDX-License-Identifier: Apache-2.0
"""On two gloo processes the drop-ins gather documents as sentence-transformers does, with the same gradients."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

pytest.importorskip(
    "sentence_transformers.sentence_transformer.losses",
    reason="sentence-transformers is missing; pip install 'sentence-transformers>=6' brings it",
)

from sentence_transformers.sentence_transformer import losses as theirs  # noqa: E402
from tiny_sentences import WORDS, model_of, sentences, step  # noqa: E402
from worlds import WorldsOf, caught  # noqa: E402

from sslkernels.losses import sentence_transformers as ours  # noqa: E402

EVERY = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "both ways": {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
    "every direction": {"directions": EVERY},
    "harder": {"hardness_mode": "all_negatives", "hardness_strength": 5.0},
}
CASES = list(product(("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"), (0, 2), SETTINGS))


def both(rank: int, name: str, negatives: int, settings: str) -> list[torch.Tensor]:
    model, columns = model_of(WORDS, dtype=torch.float64), sentences(negatives + 2, 7, seed=rank)
    given = SETTINGS[settings] | ({"mini_batch_size": 3} if name.startswith("Cached") else {})
    found, expected = (
        step(getattr(library, name)(model, gather_across_devices=True, **given), model, columns)
        for library in (ours, theirs)
    )
    return [*found, *expected]


def job(rank: int, world: int) -> dict[str, Any]:
    return {str(case): caught(both, rank, *case) for case in CASES}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return WorldsOf(job, tmp_path_factory)(2)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_rank_has_the_value_and_gradients_of_the_original(ranks, case):
    for rank in ranks:
        results = rank[str(case)]
        assert isinstance(results, list), results
        half = len(results) // 2
        assert half > 1
        for found, expected in zip(results[:half], results[half:], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
