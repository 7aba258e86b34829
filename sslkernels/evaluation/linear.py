# SPDX-License-Identifier: Apache-2.0
"""Fits linear classifiers to standardised rows, and says what they make of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sslkernels.arguments import came, check_size
from sslkernels.evaluation.labelled import check_classes, draws_of, labelled_rows

# Where rows have more features than this times their number, the probe works on fewer.
WIDE = 4
# The strengths of fit, scikit-learn's C, among which folds choose.
STRENGTHS = tuple(10.0**power for power in range(-3, 4))
# Turns rows and labels into a function from rows to the labels that they get.
Fit = Callable[[Tensor, Tensor], Callable[[Tensor], Tensor]]


def linear_svm(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    shots: int | None = None,
    draws: int = 10,
    folds: int | None = None,
) -> float | None:
    """Fit linear support vector machines, one class against the rest, to standardised rows; the accuracy on others.

    ``min_w 1/2 |w|^2 + C sum_i max(0, 1 - y_i (<w, x_i> + b))^2`` for each class; the largest ``<w, x> + b`` wins.
    Goyal et al. 2019 probe VOC07 so.

    Args:
        features, labels, test_features, test_labels: ``(N, D)``, int64 ``(N,)``, and those of other rows.
        shots: labelled rows of each class; None for all rows.
        draws: choices of these, whose accuracy is averaged; all rows are one choice.
        folds: choose C of 0.001 to 1000 by cross-validation among so many parts; None for C = 1.

    Returns:
        The accuracy; None if a class has fewer rows than ``shots``.

    Raises:
        ValueError, TypeError: unlike shapes, one class alone, a class with fewer labelled rows than ``folds``.

    Cost: that of scikit-learn's ``LinearSVC`` on ``(N, D)``, ``7 * folds + 1`` times with ``folds``.

    >>> import torch
    >>> from sslkernels.evaluation import linear_svm
    >>> rows, labels = torch.eye(2).repeat(5, 1), torch.tensor([0, 1]).repeat(5)
    >>> linear_svm(rows, labels, rows, labels)
    1.0
    """
    return probed("linear_svm", "svm", features, labels, test_features, test_labels, shots, draws, folds)


def probed(
    function: str,
    kind: Literal["logistic", "svm"],
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    shots: int | None,
    draws: int,
    folds: int | None,
) -> float | None:
    """Check the arguments of a probe, fit it to each choice of labelled rows, and average its accuracies."""
    features, test_features = labelled_rows(function, features, labels, test_features, test_labels)
    check_classes(function, labels)
    shots = None if shots is None else check_size(function, "shots", shots)
    draws = check_size(function, "draws", draws)
    folds = None if folds is None else check_size(function, "folds", folds, least=2)
    scores = []
    for chosen in _choices(labels, shots, draws):
        given = labels[chosen]
        least = int(given.unique(return_counts=True)[1].min())
        if folds is not None and least < folds:
            raise ValueError(
                f"{function}: folds is {came(folds)} and a class has {least} labelled rows; pass at most {least}, "
                "or None."
            )
        predict = fit_linear(features[chosen], given, kind=kind, folds=folds)
        scores.append(float((predict(test_features) == test_labels.cpu()).double().mean()))
    return sum(scores) / len(scores) if scores else None


def _choices(labels: Tensor, shots: int | None, draws: int) -> Iterator[Tensor]:
    if shots is None:
        yield torch.arange(len(labels))
    else:
        yield from draws_of(labels, shots, draws)


def fit_linear(
    rows: Tensor, labels: Tensor, *, kind: Literal["logistic", "svm"] = "logistic", folds: int | None = None
) -> Callable[[Tensor], Tensor]:
    """Fit a classifier to ``rows (N, D)`` of two classes or more; the result maps other rows to int64 labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    scale = StandardScaler().fit(rows.cpu().numpy())
    known = scale.transform(rows.cpu().numpy())
    directions = None
    if known.shape[1] > WIDE * len(known):
        # The penalty keeps the weights among the rows' own directions, so nothing is lost: pixels take a third of the
        # time.
        directions = np.linalg.qr(known.T.astype(np.float64))[0]
        known = known @ directions
    model: Any = LogisticRegression(max_iter=1000) if kind == "logistic" else LinearSVC(max_iter=10000, random_state=0)
    if folds is not None:
        parts = StratifiedKFold(folds, shuffle=True, random_state=0)
        model = GridSearchCV(model, {"C": STRENGTHS}, cv=parts)
    model.fit(known, labels.cpu().numpy())

    def predict(others: Tensor) -> Tensor:
        tested = scale.transform(others.cpu().numpy())
        return torch.from_numpy(model.predict(tested if directions is None else tested @ directions))

    return predict
