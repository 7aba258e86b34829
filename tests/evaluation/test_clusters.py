# SPDX-License-Identifier: Apache-2.0
"""Clusters are compared with labels by the textbook formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslkernels.evaluation import clustering

AXES = torch.eye(4).repeat(6, 1)  # four clusters of six rows, whatever their length


def compared(clusters: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    table = np.array([[((clusters == c) & (labels == y)).sum() for y in set(labels)] for c in set(clusters)])
    p = table / table.sum()
    rows, columns = p.sum(1), p.sum(0)
    mutual = sum(
        p[i, j] * np.log(p[i, j] / rows[i] / columns[j]) for i in range(len(p)) for j in range(p.shape[1]) if p[i, j]
    )
    entropy = [-(q * np.log(q)).sum() for q in (rows, columns)]
    pairs = lambda counts: (counts * (counts - 1) / 2).sum()  # noqa: E731
    chance = pairs(table.sum(1)) * pairs(table.sum(0)) / pairs(np.array([table.sum()]))
    most = (pairs(table.sum(1)) + pairs(table.sum(0))) / 2
    return 2 * mutual / sum(entropy), (pairs(table) - chance) / (most - chance), table.max(1).sum() / table.sum()


def test_scores_are_the_formulas():
    labels = torch.randint(3, (24,))
    scores = clustering(AXES * torch.rand(24, 1).add(0.5), labels, 4)
    np.testing.assert_allclose(scores, compared(np.arange(24) % 4, labels.numpy()), atol=1e-6)


def test_classes_are_found_and_the_best_start_counts():
    assert clustering(AXES + 0.05 * torch.rand(24, 4), torch.arange(24) % 4) == (1, 1, 1)
    labels = torch.arange(24) % 4
    assert clustering(AXES, labels * 2) == clustering(AXES, labels)
    assert clustering(AXES, labels // 4, 1) == (1, 1, 1)  # one class, one cluster


def test_what_cannot_be_clustered_is_refused():
    with pytest.raises(ValueError, match=r"^clustering: k is 25; pass a whole number from 1 to 24\."):
        clustering(AXES, torch.zeros(24, dtype=torch.int64), 25)
    with pytest.raises(ValueError, match="^clustering: features holds numbers that are not finite"):
        clustering(AXES / 0, torch.zeros(24, dtype=torch.int64))
