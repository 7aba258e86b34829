# SPDX-License-Identifier: Apache-2.0
"""Probes features ``(N, D)`` with labels ``(N,)``. Seeds are fixed, so that all encoders meet the same draws."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.arguments import check_rows, check_size, shape_of
from sslkernels.evaluation.directions import directions, lengthened
from sslkernels.evaluation.labelled import draws_of, labelled_rows
from sslkernels.evaluation.linear import probed
from sslkernels.functional import topk_similarity


def few_shot(
    features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, *, shots: int = 5, draws: int = 50
) -> float | None:
    """Classify rows by the nearest of ``shots`` labelled rows per class; the mean accuracy over ``draws`` choices.

    Nearness is the cosine, of rows in float32. The result is None if a class has fewer rows than ``shots``.

    >>> import torch
    >>> from sslkernels.evaluation import few_shot
    >>> rows, labels = torch.eye(2).repeat(5, 1), torch.tensor([0, 1]).repeat(5)
    >>> few_shot(rows, labels, rows, labels)
    1.0
    """
    features, test_features = labelled_rows("few_shot", features, labels, test_features, test_labels)
    shots, draws = check_size("few_shot", "shots", shots), check_size("few_shot", "draws", draws)
    keys, queries = directions(features), directions(test_features)
    correct = [
        (labels[chosen][(queries @ keys[chosen].T).argmax(1)] == test_labels).double().mean()
        for chosen in draws_of(labels, shots, draws)
    ]
    return float(torch.stack(correct).mean()) if correct else None


def linear_probe(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    shots: int | None = 10,
    draws: int = 10,
    folds: int | None = None,
) -> float | None:
    """Fit a logistic regression to ``shots`` labelled rows per class; the mean accuracy over ``draws`` choices.

    With ``shots=None`` it is fit once, to all rows. With ``folds`` its strength C, which is 1 otherwise, is chosen of
    0.001 to 1000 by cross-validation among so many parts of the labelled rows. The result is None if a class has fewer
    rows than ``shots``.
    """
    return probed("linear_probe", "logistic", features, labels, test_features, test_labels, shots, draws, folds)


def knn(features: Tensor, labels: Tensor, test_features: Tensor, test_labels: Tensor, *, k: int = 20) -> float:
    """Classify rows by the majority of the ``k`` nearest training rows by cosine; the lower label wins a tie.

    Rows are compared in float32.
    """
    features, test_features = labelled_rows("knn", features, labels, test_features, test_labels)
    k = check_size("knn", "k", k)
    classes, places = labels.unique(return_inverse=True)
    votes = F.one_hot(places[nearest(features, test_features, min(k, len(features)))], len(classes)).sum(1)
    return float((classes[votes.argmax(1)] == test_labels).double().mean())


def nearest(features: Tensor, queries: Tensor, k: int) -> Tensor:
    """Find the rows of ``features (N, D)`` nearest to ``queries (M, D)`` by cosine: indices ``(M, k)``, best first.

    Rows of float64 are compared in float64, others in float32. Of equally near rows the lower index is first. A row
    that holds NaN finds nothing, index -1, and is never found.
    """
    check_rows("nearest", "features", features)
    check_rows("nearest", "queries", queries)
    if features.shape[1] != queries.shape[1]:
        raise ValueError(
            f"nearest: features has shape {shape_of(features)} and queries {shape_of(queries)}; "
            "both need the same number of features."
        )
    k = check_size("nearest", "k", k, most=len(features))
    dtype = torch.float64 if torch.float64 in (features.dtype, queries.dtype) else torch.float32
    queries, keys = (lengthened(rows.detach().to(dtype)) for rows in (queries, features))
    return topk_similarity(queries, keys, k, metric="cosine")[1]
