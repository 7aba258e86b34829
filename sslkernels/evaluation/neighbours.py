# SPDX-License-Identifier: Apache-2.0
"""Classify and predict by the nearest rows, the nearer ones with more weight."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import DTYPES, check_flag, check_number, check_size, check_tensor, shape_of
from sslkernels.evaluation.directions import lengthened
from sslkernels.evaluation.labelled import finite_rows, labelled_rows
from sslkernels.evaluation.moments import column_means
from sslkernels.functional import topk_similarity

# Numbers of votes that are held at once.
VOTES = 1 << 24


@torch.no_grad()
def weighted_knn(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    k: int = 20,
    temperature: float = 0.07,
    *,
    regression: bool = False,
) -> float:
    """Let the k nearest rows vote on each test row, the nearer ones with more weight (Wu et al. 2018, section 3.4).

    Row i votes ``w_i = exp(cos(z, z_i) / t)`` for its label, and the label with the most votes wins. With
    ``regression`` the prediction is the weighted mean of their targets, ``sum_i w_i y_i / sum_i w_i``.

    Args:
        features, test_features: rows ``(N, D)`` and ``(M, D)`` of a frozen encoder, any floating-point dtype; they are
            rounded to float32.
        labels, test_labels: int64 ``(N,)`` and ``(M,)``, from 0; with ``regression`` floating-point targets ``(N,)``
            and ``(M,)``, or ``(N, P)`` and ``(M, P)``.
        k: rows that vote; all if there are fewer.
        temperature: t. DINO (Caron et al. 2021) votes with 0.07 too.
        regression: predict numbers instead of classes.

    Returns:
        The share of test rows whose label wins; the lower label wins a tie. With ``regression`` R², the mean over
        targets of ``1 - sum (y - p)^2 / sum (y - mean(y))^2`` of the test rows. A target that does not vary among them
        counts as 1 where every prediction is right, and as 0 otherwise.

    Raises:
        ValueError, TypeError: unlike shapes, labels below 0, numbers that are not finite.

    Cost: ``2*N*M*D`` operations, and ``O(M*k)`` numbers besides the rows: no table of all pairs.

    >>> import torch
    >>> from sslkernels.evaluation import weighted_knn
    >>> rows, labels = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]]), torch.tensor([0, 1, 1])
    >>> query = torch.tensor([[1.0, 0.0]])
    >>> weighted_knn(rows, labels, query, torch.tensor([0]), k=3)  # one near row against two far ones
    1.0
    >>> weighted_knn(rows, labels, query, torch.tensor([0]), k=3, temperature=100)
    0.0
    """
    function = "weighted_knn"
    if check_flag(function, "regression", regression):
        features, test_features = finite_rows(function, features, test_features)
        labels = _targets("labels", labels, "features", features)
        test_labels = _targets("test_labels", test_labels, "test_features", test_features)
        if labels.shape[1] != test_labels.shape[1]:
            raise ValueError(
                f"{function}: labels has {labels.shape[1]} targets a row and test_labels {test_labels.shape[1]}; "
                "both need the same."
            )
    else:
        features, test_features = labelled_rows(function, features, labels, test_features, test_labels)
    k = min(check_size(function, "k", k), len(features))
    temperature = check_number(function, "temperature", temperature, above=0)
    cosine, found = topk_similarity(lengthened(test_features), lengthened(features), k, metric="cosine")
    # The nearest row has weight 1: no exponential leaves the range, whatever the temperature.
    weight = ((cosine - cosine[:, :1]).double() / temperature).exp()
    if regression:
        # Means of what is above the first row: equal targets are predicted without a rounding error.
        above = weight[:, :, None] * (labels - labels[0])[found]
        predicted = labels[0] + above.sum(1) / weight.sum(1, keepdim=True)
        return _explained(predicted, test_labels)
    classes, places = labels.unique(return_inverse=True)
    winners = []
    for rows, votes in zip(*(each.split(max(1, VOTES // len(classes))) for each in (found, weight)), strict=True):
        total = votes.new_zeros(len(rows), len(classes)).scatter_add_(1, places[rows], votes)
        winners.append(total.argmax(1))
    return float((classes[torch.cat(winners)] == test_labels).double().mean())


def _explained(predicted: Tensor, targets: Tensor) -> float:
    missed = (targets - predicted).square().sum(0)
    spread = (targets - column_means(targets)).square().sum(0)
    constant = (missed == 0).to(missed.dtype)
    return float(torch.where(spread > 0, 1 - missed / spread, constant).mean())


def _targets(name: str, value: object, rows_name: str, rows: Tensor) -> Tensor:
    given = check_tensor("weighted_knn", name, value, "(N,) or (N, P), the numbers to predict")
    if given.dtype not in DTYPES:
        raise TypeError(f"weighted_knn: {name} has dtype {given.dtype}; pass floating-point targets for regression.")
    if given.dim() not in (1, 2) or len(given) != len(rows) or not given.numel():
        raise ValueError(
            f"weighted_knn: {name} has shape {shape_of(given)} and {rows_name} {shape_of(rows)}; "
            "pass (N,) or (N, P), one row of targets for each row."
        )
    if not given.isfinite().all():
        raise ValueError(f"weighted_knn: {name} holds numbers that are not finite; leave those rows out.")
    return given.detach().double().reshape(len(rows), -1)
