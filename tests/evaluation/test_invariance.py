# SPDX-License-Identifier: Apache-2.0
"""A unit that fires for a sample and for its transforms is invariant; one that fires anyhow is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sslkernels.evaluation import invariance_scores


def test_scores_are_the_definition():
    """The firing share among the transforms of the sample of an input, averaged over the inputs for which it fires."""
    features = torch.randn(5, 40, 7).relu() + torch.randn(1, 40, 7)
    values = features.double().numpy()
    expected = []
    for unit in range(7):
        flat = np.sort(values[:, :, unit].ravel())[::-1]
        fires = values[:, :, unit] >= flat[round(0.1 * 200) - 1]
        local = [fires[:, sample].mean() for transform in range(5) for sample in range(40) if fires[transform, sample]]
        expected.append(np.mean(local) / fires.mean())
    top, units = invariance_scores(features, 3, 0.1)
    np.testing.assert_allclose(units.numpy(), expected, rtol=1e-6)
    assert top == pytest.approx(np.sort(expected)[-3:].mean())


def test_invariant_noisy_and_dead_units(monkeypatch):
    monkeypatch.setattr("sslkernels.evaluation.invariance.UNITS", 2)
    sample = torch.randn(1, 2000, 1).expand(10, 2000, 1)
    features = torch.cat([sample, torch.randn(10, 2000, 1), torch.zeros(10, 2000, 1)], 2)
    units = invariance_scores(features, firing=0.01).units
    assert units[0] == pytest.approx(100) and units[2] == pytest.approx(1)
    assert 8 < units[1] < 14  # an input fires itself, which is a tenth, besides a hundredth of the others


def test_what_has_no_units_is_refused():
    with pytest.raises(ValueError, match=r"^invariance_scores: features has shape \(4, 3\)"):
        invariance_scores(torch.randn(4, 3))
    with pytest.raises(ValueError, match="pass at least one input"):
        invariance_scores(torch.randn(0, 4, 3))
    with pytest.raises(ValueError, match="not finite"):
        invariance_scores(torch.full((2, 4, 3), float("nan")))
