# SPDX-License-Identifier: Apache-2.0
"""Says where the error of a probe on an encoder comes from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_callable, check_number
from sslkernels.evaluation.labelled import check_classes, labelled_rows
from sslkernels.evaluation.linear import Fit, fit_linear


class Risk(NamedTuple):
    """The result of `risk_decomposition`; ``total`` is the sum of the other four."""

    approximation: float
    usability: float
    probe_generalization: float
    encoder_generalization: float
    total: float


def risk_decomposition(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    supervised: float = 0.0,
    *,
    fit: Fit = fit_linear,
) -> Risk:
    """Divide a probe's error among encoder and probe, approximation and generalisation (Dubois et al. 2023).

    ``R(A -> B)`` is the error on B of the probe fit to A. Of the training rows ``sub`` are held out, as many as there
    are test rows, and ``rest`` are left: the encoder has seen both, the probe ``rest`` alone.

        approximation ``supervised``,  usability ``R(train -> train) - supervised``,
        probe generalisation ``R(rest -> sub) - R(train -> train)``,
        encoder generalisation ``R(rest -> test) - R(rest -> sub)``, by the same probe

    Args:
        features, labels: ``(N, D)`` and int64 ``(N,)``, of samples that the encoder was trained on.
        test_features, test_labels: those of others; fewer than N, of which ``sub`` is at most a half.
        supervised: training error of the same network when it is trained with labels, from 0 to 1. Large networks
            reach 0.
        fit: the probe: rows and labels to a function from rows to labels. By default the logistic regression of
            `linear_probe`, on all rows.

    Returns:
        Five numbers. All but the first and the last may be negative, within the noise of a draw.

    Raises:
        ValueError, TypeError: unlike shapes, one class alone, numbers that are not finite.

    Cost: two fits.

    >>> import torch
    >>> from sslkernels.evaluation import risk_decomposition
    >>> rows, labels = torch.eye(2).repeat(50, 1), torch.tensor([0, 1]).repeat(50)
    >>> risk_decomposition(rows, labels, rows[:20], 1 - labels[:20]).encoder_generalization
    1.0
    """
    function = "risk_decomposition"
    features, test_features = labelled_rows(function, features, labels, test_features, test_labels)
    check_classes(function, labels)
    supervised = check_number(function, "supervised", supervised, least=0, most=1)
    check_callable(function, "fit", fit)
    labels, test_labels = labels.cpu(), test_labels.cpu()
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    held = min(len(test_features), len(features) // 2)
    sub, rest = order[:held], order[held:]
    if len(labels[rest].unique()) < 2:
        raise ValueError(f"{function}: labels of the {len(rest)} rows that are left hold one class; pass more rows.")
    usual = _error(fit(features, labels)(features), labels)
    predict = fit(features[rest], labels[rest])
    on_sub, on_test = _error(predict(features[sub]), labels[sub]), _error(predict(test_features), test_labels)
    return Risk(supervised, usual - supervised, on_sub - usual, on_test - on_sub, on_test)


def _error(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted != labels).double().mean())
