# SPDX-License-Identifier: Apache-2.0
"""Weighted neighbours vote and predict as the formula says, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from sslkernels.evaluation import weighted_knn


def weights(rows: torch.Tensor, queries: torch.Tensor, k: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    one, other = (each.double().numpy() for each in (rows, queries))
    cosine = (other @ one.T) / np.linalg.norm(other, axis=1)[:, None] / np.linalg.norm(one, axis=1)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return np.exp(np.take_along_axis(cosine, order, 1) / temperature), order


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (20, 1.0), (99, 0.3)])
def test_votes_are_the_formula(k, temperature):
    rows, queries = torch.randn(90, 6), torch.randn(40, 6)
    labels, tested = torch.randint(5, (90,)) * 3, torch.randint(5, (40,)) * 3
    weight, order = weights(rows, queries, k, temperature)
    votes = np.zeros((40, 15))
    for query in range(40):
        for w, row in zip(weight[query], order[query], strict=True):
            votes[query, labels[row]] += w
    expected = (votes.argmax(1) == tested.numpy()).mean()
    assert weighted_knn(rows, labels, queries, tested, k, temperature) == pytest.approx(expected)


@pytest.mark.parametrize("targets", [(), (3,)])
def test_predictions_are_weighted_means_and_their_r2_is_that_of_scikit_learn(targets):
    rows, queries = torch.randn(60, 5), torch.randn(30, 5)
    y, tested = torch.randn(60, *targets), torch.randn(30, *targets)
    weight, order = weights(rows, queries, 6, 0.2)
    wide = y.double().numpy().reshape(60, -1)
    predicted = (weight[:, :, None] * wide[order]).sum(1) / weight.sum(1)[:, None]
    expected = r2_score(tested.numpy().reshape(30, -1), predicted)
    assert weighted_knn(rows, y, queries, tested, 6, 0.2, regression=True) == pytest.approx(expected, abs=1e-5)


def test_votes_in_pieces_and_the_smallest_temperatures(monkeypatch):
    rows, labels = torch.randn(50, 4), torch.arange(50) % 4
    whole = weighted_knn(rows, labels, rows, labels)
    monkeypatch.setattr("sslkernels.evaluation.neighbours.VOTES", 12)
    assert weighted_knn(rows, labels, rows, labels) == whole
    assert weighted_knn(rows, labels, rows * 3, labels, temperature=1e-30) == 1.0  # each row is its own nearest


def test_targets_that_do_not_fit_are_refused():
    rows = torch.randn(4, 3)
    for labels, said in [
        (torch.arange(4), "floating-point targets"),
        (torch.randn(3), "one row of targets"),
        (torch.full((4,), float("nan")), "not finite"),
        (torch.randn(4, 2), "both need the same"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"weighted_knn: labels .*{said}"):
            weighted_knn(rows, labels, rows, torch.randn(4), regression=True)


@pytest.mark.parametrize(("known", "score"), [(0.1, 1.0), (0.5, 0.0)])
def test_a_constant_target_has_no_rounding_error(known, score):
    targets, tested = (torch.full((6,), value, dtype=torch.float64) for value in (known, 0.1))
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert weighted_knn(x, targets, x, tested, k=3, regression=True) == score  # six tenths over six are no tenth
