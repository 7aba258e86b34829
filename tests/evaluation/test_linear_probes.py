# SPDX-License-Identifier: Apache-2.0
"""Linear probes are scikit-learn's on standardised rows, with one strength or the best of several."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sslkernels.evaluation import linear_probe, linear_svm

LABELS = torch.arange(3).repeat(30)
CLASSIFIERS = {linear_probe: LogisticRegression(max_iter=1000), linear_svm: LinearSVC(random_state=0, max_iter=10000)}


@pytest.mark.parametrize("probe", CLASSIFIERS)
@pytest.mark.parametrize("width", [6, 700])
def test_all_rows_are_fit_once(probe, width):
    rows, others = torch.randn(90, width) + LABELS[:, None], torch.randn(90, width) + LABELS[:, None]
    known = make_pipeline(StandardScaler(), CLASSIFIERS[probe]).fit(rows.numpy(), LABELS.numpy())
    expected = known.score(others.numpy(), LABELS.numpy())
    # Wide rows are brought to their own directions, where an iteration may end elsewhere.
    assert probe(rows, LABELS, others, LABELS, shots=None) == pytest.approx(expected, abs=0.03 if width > 600 else 1e-9)


@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_folds_choose_the_strength(probe):
    rows, others = torch.randn(90, 40) + 0.4 * LABELS[:, None], torch.randn(90, 40) + 0.4 * LABELS[:, None]
    grid = {"C": [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0]}
    search = GridSearchCV(CLASSIFIERS[probe], grid, cv=StratifiedKFold(3, shuffle=True, random_state=0))
    known = make_pipeline(StandardScaler(), search).fit(rows.numpy(), LABELS.numpy())
    assert search.best_params_["C"] != 1
    assert probe(rows, LABELS, others, LABELS, shots=None, folds=3) == pytest.approx(
        known.score(others.numpy(), LABELS.numpy())
    )


@pytest.mark.parametrize("probe", CLASSIFIERS)
def test_what_cannot_be_fit_is_refused(probe):
    rows = torch.randn(90, 4)
    with pytest.raises(ValueError, match=r"folds is 5 and a class has 3 labelled rows; pass at most 3, or None\."):
        probe(rows, LABELS, rows, LABELS, shots=3, folds=5)
    with pytest.raises(ValueError, match="labels holds one class"):
        probe(rows, LABELS * 0, rows, LABELS)
    assert probe(rows, LABELS, rows, LABELS, shots=31) is None
