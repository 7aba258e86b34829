# SPDX-License-Identifier: Apache-2.0
"""The subset is that of trying every row at every step, by the matrix of similarities."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslkernels.data import sas
from sslkernels.evaluation import sas_subset


def greedy(rows: torch.Tensor, count: int, redundancy: float) -> list[int]:
    x = rows.double().numpy()
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    similarity, chosen = x @ x.T, []
    for _ in range(count):
        gains = similarity.sum(1) - redundancy * similarity[:, chosen].sum(1)
        gains[chosen] = -np.inf
        chosen.append(int(gains.argmax()))
    return sorted(chosen)


@pytest.mark.parametrize("redundancy", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_every_pick_is_the_best_there_is(redundancy, offset, monkeypatch):
    """Without an offset about half of all similarities are negative, so that gains also rise."""
    monkeypatch.setattr(sas, "CANDIDATES", 16)
    monkeypatch.setattr(sas, "PICKS", 40)
    rows, classes = torch.randn(400, 12, dtype=torch.float64) + offset, torch.randint(3, (400,))
    expected = []
    for each in range(3):
        members = (classes == each).nonzero()[:, 0]
        expected += members[greedy(rows[members], round(0.6 * len(members)), redundancy)].tolist()
    assert sas_subset(rows, classes, 0.6, redundancy=redundancy).tolist() == sorted(expected)


def test_with_two_each_step_cuts_the_most():
    """The similarity between the subset and the rest is the largest that one more row gives."""
    rows = torch.nn.functional.normalize(torch.randn(30, 6, dtype=torch.float64), dim=1)
    similarity = rows @ rows.T
    chosen: list[int] = []
    for _ in range(12):
        cuts = {}
        for row in set(range(30)) - set(chosen):
            rest = sorted(set(range(30)) - {*chosen, row})
            cuts[row] = float(similarity[rest][:, [*chosen, row]].sum())
        chosen.append(max(cuts, key=cuts.__getitem__))
    # A row's similarity to itself is in its gain, once for every row alike.
    assert sas_subset(rows, None, 0.4, redundancy=2.0).tolist() == sorted(chosen)


def test_equal_rows_and_zeros():
    assert sas_subset(torch.ones(8, 3), None, 0.5).tolist() == [0, 1, 2, 3]
    assert sas_subset(torch.zeros(8, 3), None, 0.5).tolist() == [0, 1, 2, 3]
    assert sas_subset(torch.randn(8, 3), None, 1).tolist() == list(range(8))
    assert sas_subset(torch.randn(8, 3), torch.arange(8), 0.1).tolist() == list(range(8))


def test_rows_that_cannot_be_compared_are_refused():
    rows = torch.randn(4, 3)
    for z, classes, share, said in [
        (rows.fill_diagonal_(float("nan")), None, 0.5, "z holds numbers that are not finite"),
        (torch.randn(4, 3), torch.arange(3), 0.5, "every row needs one class"),
        (torch.randn(4, 3), torch.arange(4) - 1, 0.5, "classes holds -1"),
        (torch.randn(4, 3), torch.arange(4.0), 0.5, "pass int64 classes"),
        (torch.randn(4, 3), None, 0.0, "share is 0.0; pass a number above 0, up to 1"),
        (torch.randn(0, 3), None, 0.5, "z has no row"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^sas_subset: .*{said}"):
            sas_subset(z, classes, share)
