# SPDX-License-Identifier: Apache-2.0
"""Probes features ``(N, D)`` with labels ``(N,)``. Seeds are fixed, so that all encoders meet the same draws."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_rows, check_size, shape_of
from sslkernels.evaluation.labelled import draws_of, labelled_rows
from sslkernels.functional import topk_similarity

# Where rows have more features than this times their number, the probe works on fewer.
WIDE = 4


def few_shot(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, *, shots: int = 5, draws: int = 50
) -> float | None:
    """Classify rows by the nearest of ``shots`` labelled rows per class; the mean accuracy over ``draws`` choices.

    Nearness is the cosine. The result is None if a class has fewer rows than ``shots``.

    >>> import torch
    >>> from sslkernels.evaluation import few_shot
    >>> rows, labels = torch.eye(2).repeat(5, 1), torch.tensor([0, 1]).repeat(5)
    >>> few_shot(rows, labels, rows, labels)
    1.0
    """
    features, test_features = labelled_rows("few_shot", features, labels, test_features, test_labels)
    shots, draws = check_size("few_shot", "shots", shots), check_size("few_shot", "draws", draws)
    keys, queries = F.normalize(features, dim=1), F.normalize(test_features, dim=1)
    correct = [
        (labels[chosen][(queries @ keys[chosen].T).argmax(1)] == test_labels).float().mean()
        for chosen in draws_of(labels, shots, draws)
    ]
    return float(torch.stack(correct).mean()) if correct else None


def linear_probe(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, *, shots: int = 10, draws: int = 10
) -> float | None:
    """Fit a logistic regression to ``shots`` labelled rows per class; the mean accuracy over ``draws`` choices.

    The result is None if a class has fewer rows than ``shots``.
    """
    features, test_features = labelled_rows("linear_probe", features, labels, test_features, test_labels)
    if len(labels.unique()) < 2:
        raise ValueError("linear_probe: labels holds one class; pass rows of at least two.")
    shots, draws = check_size("linear_probe", "shots", shots), check_size("linear_probe", "draws", draws)
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scores = []
    for chosen in draws_of(labels, shots, draws):
        scale = StandardScaler().fit(features[chosen].numpy())
        rows, tested = (scale.transform(each.numpy()) for each in (features[chosen], test_features))
        if rows.shape[1] > WIDE * len(rows):
            # The penalty keeps the weights among the rows' own directions, so nothing is lost: pixels take a third of
            # the time.
            directions = np.linalg.qr(rows.T.astype(np.float64))[0]
            rows, tested = rows @ directions, tested @ directions
        probe = LogisticRegression(max_iter=1000).fit(rows, labels[chosen].numpy())
        scores.append(probe.score(tested, test_labels.numpy()))
    return float(sum(scores) / len(scores)) if scores else None


def knn(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, *, k: int = 20) -> float:
    """Classify rows by the majority of the ``k`` nearest training rows by cosine; the lower label wins a tie."""
    features, test_features = labelled_rows("knn", features, labels, test_features, test_labels)
    k = check_size("knn", "k", k)
    classes, places = labels.unique(return_inverse=True)
    votes = F.one_hot(places[nearest(features, test_features, min(k, len(features)))], len(classes)).sum(1)
    return float((classes[votes.argmax(1)] == test_labels).float().mean())


def nearest(features: Tensor, queries: Tensor, k: int) -> Tensor:
    """Find the rows of ``features (N, D)`` nearest to ``queries (M, D)`` by cosine: indices ``(M, k)``, best first.

    Of equally near rows the lower index is first. A row that holds NaN finds nothing, index -1, and is never found.
    """
    check_rows("nearest", "features", features)
    check_rows("nearest", "queries", queries)
    if features.shape[1] != queries.shape[1]:
        raise ValueError(
            f"nearest: features has shape {shape_of(features)} and queries {shape_of(queries)}; "
            "both need the same number of features."
        )
    k = check_size("nearest", "k", k, most=len(features))
    return topk_similarity(queries.float(), features.float(), k, metric="cosine")[1]
