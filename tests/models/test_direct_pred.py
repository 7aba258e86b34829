# SPDX-License-Identifier: Apache-2.0
"""DirectPred against its formula in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from sslkernels.models import DirectPred

STEPS = 3


def dense(steps: list[np.ndarray], momentum: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Compute F and W after steps of rows ``(N, D)``."""
    dim = steps[0].shape[1]
    correlation = np.zeros((dim, dim))
    for rows in steps:
        mean = sum(np.outer(row, row) for row in rows) / len(rows)
        correlation = momentum * correlation + (1 - momentum) * mean
    values, vectors = np.linalg.eigh(correlation)
    shares = np.maximum(values, 0) / values.max()
    return correlation, vectors @ np.diag(np.maximum(np.sqrt(shares) + eps, 1e-4)) @ vectors.T


def views(step: int) -> tuple[Tensor, Tensor]:
    """Draw two views that spread unevenly over the directions."""
    rows = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(step))
    return tuple(rows * torch.logspace(0, -2, 6))


def trained(predictor: DirectPred, steps: int = STEPS) -> DirectPred:
    for step in range(steps):
        for view in views(step):
            predictor(view.to(predictor.weight.dtype))
        predictor.after_step()
    return predictor


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-4)])
@pytest.mark.parametrize(("momentum", "eps"), [(0.6, 0.05), (0.0, 0.0), (0.3, -0.2)])
def test_weight_is_the_formula_of_all_rows_of_each_step(dtype, tolerance, momentum, eps):
    predictor = trained(DirectPred(6, momentum=momentum, eps=eps).to(dtype))
    steps = [torch.cat(views(step)).double().numpy() for step in range(STEPS)]
    for found, expected in zip((predictor.correlation, predictor.weight), dense(steps, momentum, eps), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double().numpy(), expected, rtol=tolerance, atol=tolerance)


def test_it_starts_as_the_identity_and_its_gradient_is_the_weight():
    predictor = DirectPred(6)
    x = views(9)[0].requires_grad_()
    assert torch.equal(predictor(x), x)
    trained(predictor)
    out = predictor(x)
    torch.testing.assert_close(out, x @ predictor.weight.T)
    grad = torch.randn_like(out)
    torch.testing.assert_close(*torch.autograd.grad(out, x, grad), grad @ predictor.weight)
    assert not predictor.weight.requires_grad and not list(predictor.parameters())


def test_evaluation_moves_nothing():
    predictor = trained(DirectPred(6)).eval()
    before = copy.deepcopy(predictor.state_dict())
    predictor(views(9)[0])
    predictor.after_step()
    assert all(torch.equal(value, before[name]) for name, value in predictor.state_dict().items())


def test_a_resumed_predictor_goes_on_as_it_was():
    whole, parts = trained(DirectPred(6)), trained(DirectPred(6), 1)
    parts(views(1)[0])
    resumed = DirectPred(6)
    resumed.load_state_dict(parts.state_dict())
    resumed(views(1)[1])
    resumed.after_step()
    for view in views(2):
        resumed(view)
    resumed.after_step()
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.correlation, whole.correlation)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_move_nothing(value):
    predictor = trained(DirectPred(6))
    before = copy.deepcopy(predictor.state_dict())
    for view in views(9):
        predictor(view)
    predictor(torch.full((2, 6), value))
    predictor.after_step()
    assert all(torch.equal(kept, before[name]) for name, kept in predictor.state_dict().items())
    trained(predictor, 1)
    assert not torch.equal(predictor.correlation, before["correlation"])


def test_rows_of_zeros_leave_a_finite_weight():
    predictor = DirectPred(3, eps=0.1)
    predictor(torch.zeros(4, 3))
    predictor.after_step()
    torch.testing.assert_close(predictor.weight, 0.1 * torch.eye(3))


def test_low_precision_rows_are_summed_in_float32():
    predictor, exact = DirectPred(6), DirectPred(6)
    x = views(0)[0].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert predictor(x).dtype == torch.bfloat16
    assert predictor(x).dtype == torch.bfloat16
    exact(x.float())
    predictor.after_step()
    exact.after_step()
    torch.testing.assert_close(predictor.correlation, exact.correlation)
    halved = trained(DirectPred(6).bfloat16())
    torch.testing.assert_close(halved.weight.float(), trained(DirectPred(6)).weight, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 0}, "DirectPred: dim is 0; pass a whole number of at least 1."),
        ({"momentum": 1.0}, "DirectPred: momentum is 1.0; pass a number of at least 0 and below 1."),
        ({"momentum": -0.1}, "DirectPred: momentum is -0.1; pass a finite number of at least 0."),
        ({"eps": float("nan")}, "DirectPred: eps is nan; pass a finite number."),
    ],
)
def test_a_wrong_value_gets_a_sentence(arguments, words):
    with pytest.raises(ValueError) as caught:
        DirectPred(**{"dim": 6, **arguments})
    assert str(caught.value) == words


def test_rows_of_another_width_get_a_sentence():
    with pytest.raises(ValueError, match=r"DirectPred: x has shape \(2, 5\); expected \(N, 6\)\."):
        DirectPred(6)(torch.ones(2, 5))
