# SPDX-License-Identifier: Apache-2.0
"""The ranking loss has the value and the gradients of whole matrices, on every backend, and needs no matrix itself."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from ranking_oracle import dense_ranking
from torch import Tensor

import sslkernels as sk
from sslkernels.functional.ranking import ranking

MORE = ("query_to_query", "doc_to_query", "doc_to_doc")
JOINT = [
    ("query_to_doc", *(name for name, on in zip(MORE, each, strict=True) if on)) for each in product((0, 1), repeat=3)
]
WAYS = [(each, True) for each in JOINT] + [(each, False) for each in (JOINT[0], JOINT[2])]
HARDER = [(0.0, 0.0), (5.0, 0.0), (0.0, 5.0), (9.0, 9.0)]


def value_and_gradients(function: Any, rows: list[Tensor], *arguments: Any, **settings: Any) -> list[Tensor]:
    rows = [each.clone().requires_grad_() for each in rows]
    value = function(rows[0], rows[1:], *arguments, **settings)
    value.backward()
    return [value.detach(), *(each.grad for each in rows)]


@pytest.mark.parametrize("harder", HARDER, ids=str)
@pytest.mark.parametrize(("directions", "joint"), WAYS, ids=str)
def test_value_and_gradients(backend, directions, joint, harder):
    for count, negatives in ((1, 0), (1, 2), (6, 0), (5, 3)):
        rows = [torch.randn(count, 4, dtype=torch.float64) for _ in range(negatives + 2)]
        for normalize, scale in ((True, 20.0), (False, 1.0)):
            settings = {"normalize": normalize, "directions": directions, "joint": joint, "harder": harder}
            expected = value_and_gradients(dense_ranking, rows, scale, **settings)
            with sk.use_backend(backend):
                found = value_and_gradients(ranking, rows, scale, **settings)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_well_aligned_pairs_keep_their_loss_and_gradient():
    """A share of 4e-9 is there, which log Z - p in float32 cannot tell from none."""
    query, apart = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    value, by_query, *_ = value_and_gradients(ranking, [query, query, apart], 20.0)
    share = (2 + math.exp(-20)) * math.exp(-20)
    torch.testing.assert_close(
        value.double(), torch.tensor(math.log1p(share), dtype=torch.float64), rtol=1e-5, atol=0.0
    )
    expected = torch.full((2,), 20 * share / 2, dtype=torch.float64)
    torch.testing.assert_close(by_query[:, 1].double(), expected, rtol=1e-5, atol=0.0)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_query_without_any_negative_sends_no_nan_back():
    """Every sum is over nothing then. Anomaly detection looks at the gradients on the way too."""
    with torch.autograd.detect_anomaly(check_nan=True):
        settings = {"directions": ("query_to_doc", "query_to_query", "doc_to_doc")}
        found = value_and_gradients(ranking, [torch.randn(1, 4), torch.randn(1, 4)], 20.0, **settings)
    assert all((each == 0).all() for each in found)


def test_columns_that_do_not_match_are_named():
    with pytest.raises(ValueError, match=r"documents\[1\]"):
        ranking(torch.eye(3), [torch.eye(3), torch.eye(3)[:2]], 20.0)
