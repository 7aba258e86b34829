# SPDX-License-Identifier: Apache-2.0
"""Bounds the gap between training and test accuracy of a probe by three gaps, with a few labels made wrong."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_callable, check_number, check_size
from sslkernels.evaluation.labelled import check_classes, labelled_rows
from sslkernels.evaluation.linear import Fit, fit_linear


class RRM(NamedTuple):
    """The result of `rrm`: three gaps, and the four accuracies that they are made of."""

    robustness: float
    rationality: float
    memorization: float
    train: float
    noisy_train: float
    wrong_train: float
    test: float


def rrm(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    noise: float = 0.05,
    *,
    draws: int = 3,
    fit: Fit = fit_linear,
) -> RRM:
    """Bound a probe's generalisation gap by its robustness, rationality and memorisation (Bansal et al. 2021).

    Of the training labels a share n is made wrong, and the probe is fit to them. All accuracies are those on the right
    labels: ``Train(n)`` of all training rows, ``NTrain(n)`` of those whose label was wrong, and ``Test(0)`` of the
    probe without wrong labels. Then

        robustness ``[Train(0) - Train(n)]+``, rationality ``[NTrain(n) - Test(0)]+``,
        memorisation ``[Train(n) - NTrain(n)]+``,

    which sum to at least ``Train(0) - Test(0)``. A probe that learns its labels by heart has a large memorisation.

    Args:
        features, labels, test_features, test_labels: ``(N, D)``, int64 ``(N,)``, and those of test rows.
        noise: n, above 0 and up to 1; at least one label is wrong. Ours are drawn among the other labels, so that
            each is wrong; the paper's may be right by chance.
        draws: choices of wrong labels, whose accuracies are averaged.
        fit: the training procedure: rows and labels to a function from rows to labels. By default the logistic
            regression of `linear_probe`, on all rows.

    Raises:
        ValueError, TypeError: unlike shapes, one class alone, numbers that are not finite.

    Cost: ``1 + draws`` fits.

    >>> import torch
    >>> from sslkernels.evaluation import rrm
    >>> rows, labels = torch.eye(2).repeat(50, 1), torch.tensor([0, 1]).repeat(50)
    >>> gaps = rrm(rows, labels, rows, labels)  # wrong labels among equal rows change nothing
    >>> gaps.robustness, gaps.rationality, gaps.memorization
    (0.0, 0.0, 0.0)
    """
    function = "rrm"
    features, test_features = labelled_rows(function, features, labels, test_features, test_labels)
    check_classes(function, labels)
    noise = check_number(function, "noise", noise, above=0, most=1)
    draws = check_size(function, "draws", draws)
    check_callable(function, "fit", fit)
    labels, test_labels = labels.cpu(), test_labels.cpu()
    predict = fit(features, labels)
    train, test = _accuracy(predict(features), labels), _accuracy(predict(test_features), test_labels)
    classes, places = labels.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(0)
    noisy, wrong = 0.0, 0.0
    for _ in range(draws):
        changed = torch.randperm(len(labels), generator=generator)[: max(1, round(noise * len(labels)))]
        step = torch.randint(1, len(classes), (len(changed),), generator=generator)
        given = places.clone()
        given[changed] = (given[changed] + step) % len(classes)
        # A probe cannot be fit to one class, which so few rows may be left with.
        predicted = fit(features, classes[given])(features) if len(given.unique()) > 1 else classes[given]
        noisy += _accuracy(predicted, labels) / draws
        wrong += _accuracy(predicted[changed], labels[changed]) / draws
    robustness, rationality, memorization = (max(0.0, gap) for gap in (train - noisy, wrong - test, noisy - wrong))
    return RRM(robustness, rationality, memorization, train, noisy, wrong, test)


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).double().mean())
