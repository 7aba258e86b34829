# SPDX-License-Identifier: Apache-2.0
"""The mean-entropy regulariser where probabilities leave the range of float32, and where a batch is balanced."""

from __future__ import annotations

import math

import formulas
import pytest
import torch

import sslkernels.functional as SF


def test_a_collapsed_batch_costs_log_k_and_an_even_one_nothing(backend: str) -> None:
    weight = torch.eye(4)
    collapsed = SF.mean_entropy(weight[:1], weight, temperature=0.01, backend=backend)
    torch.testing.assert_close(collapsed, torch.tensor(math.log(4)))
    even = SF.mean_entropy(weight, weight, temperature=0.01, backend=backend)
    torch.testing.assert_close(even, torch.tensor(0.0), rtol=0, atol=1e-9)


def test_the_value_of_a_nearly_even_batch_keeps_its_digits(backend: str) -> None:
    """``sum m log(K m)`` as written is a sum of large terms here, and in float32 wrong by as much as the value."""
    x, weight = torch.randn(4096, 32), torch.randn(256, 32)
    value = SF.mean_entropy(x, weight, temperature=2.0, backend=backend)
    wanted = formulas.mean_entropy(x.double(), weight.double(), 2.0)
    assert wanted < 2e-6
    torch.testing.assert_close(value.double(), wanted, rtol=1e-2, atol=0)


def test_prototypes_that_no_row_is_near_are_still_pulled(backend: str) -> None:
    """Their mean probability is e^-200, which float32 holds as zero, and its logarithm would be -inf."""
    x, weight = torch.eye(2)[:1].clone().requires_grad_(), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    prior = torch.tensor([0.5, 0.5])
    value = SF.mean_entropy(x, weight, temperature=0.01, prior=prior, normalize=False, backend=backend)
    torch.testing.assert_close(value, torch.tensor(100 - math.log(2)))
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], torch.tensor([[100.0, 0.0]]))


def test_a_prior_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^mean_entropy: prior holds -0\.5; pass probabilities, at least 0\.$"):
        SF.mean_entropy(torch.eye(2), torch.eye(2), prior=torch.tensor([1.5, -0.5]))
