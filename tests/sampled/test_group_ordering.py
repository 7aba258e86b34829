# SPDX-License-Identifier: Apache-2.0
"""group_ordering against the matrices of its network, and where these cannot go: far values and few bits."""

from __future__ import annotations

import math

import formulas
import pytest
import torch

import sslkernels.functional as SF


@pytest.mark.parametrize(("places", "positives"), [(2, 1), (3, 2), (6, 1), (11, 1), (12, 3)])
@pytest.mark.parametrize("steepness", [1.0, 5.0])
def test_value_and_gradient_are_those_of_the_matrices(places: int, positives: int, steepness: float) -> None:
    similarities = torch.randn(4, places, dtype=torch.float64, requires_grad=True)
    found = SF.group_ordering(similarities, positives, steepness=steepness, reduction="none")
    expected = formulas.group_ordering(similarities, positives, steepness)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    upstream = torch.randn(4, dtype=torch.float64)
    gradients = [torch.autograd.grad(each, similarities, upstream)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-10)
    for reduction in ("mean", "sum"):
        value = SF.group_ordering(similarities, positives, steepness=steepness, reduction=reduction)
        torch.testing.assert_close(value, getattr(found, reduction)())


def test_order_within_a_group_does_not_matter() -> None:
    similarities = torch.randn(5, 7)
    turned = torch.cat([similarities[:, [2, 0, 1, 3]], similarities[:, [6, 4, 5]]], 1)
    assert torch.equal(SF.group_ordering(similarities, 3), SF.group_ordering(turned, 3))


def test_groups_in_order_cost_nothing_when_swaps_are_sure_and_the_reverse_much() -> None:
    ordered = torch.tensor([[-2.0, -1.0, 1.0, 2.0]])
    assert SF.group_ordering(ordered, 2, steepness=1e8) < 1e-6
    reverse = torch.tensor([[2.0, -2.0]], requires_grad=True)
    loss = SF.group_ordering(reverse, 1, steepness=1e10)
    # A swap that should not be has probability 1 / (pi * 4e10), which 1/2 - atan / pi would round to 0.
    torch.testing.assert_close(loss.item(), math.log(math.pi * 4e10))
    loss.backward()
    assert reverse.grad.isfinite().all() and reverse.grad[0, 0] > 0 > reverse.grad[0, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_it_is_computed_in_float32(dtype: torch.dtype) -> None:
    similarities = torch.rand(3, 11).to(dtype)
    value = SF.group_ordering(similarities, 1)
    assert value.dtype == torch.float32
    assert torch.equal(value, SF.group_ordering(similarities.float(), 1))


def test_wrong_arguments_get_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"group_ordering: similarities has shape \(3, 1\); pass at least one anchor"):
        SF.group_ordering(torch.ones(3, 1), 1)
    with pytest.raises(ValueError, match="group_ordering: positives is 4; pass a whole number from 1 to 3"):
        SF.group_ordering(torch.ones(3, 4), 4)
