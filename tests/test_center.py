# SPDX-License-Identifier: Apache-2.0
"""Center is the running mean of logits that nobody computes, and moves once for all rows that were collected."""

from __future__ import annotations

import torch

from sslkernels import Center


def test_a_step_of_several_batches_moves_it_once_by_the_mean_of_their_logits() -> None:
    center, expected = Center(5, momentum=0.8).double(), torch.zeros(1, 5, dtype=torch.float64)
    for step in range(3):
        weight = torch.randn(5, 4, dtype=torch.float64)
        batches = [torch.randn(rows, 4, dtype=torch.float64, requires_grad=True) for rows in (2, 1, 6)]
        before = center.center.clone()
        for rows in batches[: 3 - step]:
            center.collect(rows)
        assert torch.equal(center.center, before)
        center.update(weight)
        logits = torch.cat([rows @ weight.T for rows in batches[: 3 - step]])
        expected = 0.8 * expected + 0.2 * logits.mean(0, keepdim=True).detach()
        torch.testing.assert_close(center.center, expected, rtol=1e-12, atol=1e-12)
        center.update(weight)  # the rows have been used
        torch.testing.assert_close(center.center, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(center.bias(0.04), -expected[0] / 0.04)
    assert not center.center.requires_grad


def test_it_takes_the_center_of_an_official_checkpoint_and_gives_it_back() -> None:
    center, saved = Center(5), {"center": torch.randn(1, 5)}
    center.load_state_dict(saved)
    assert torch.equal(center.center, saved["center"]) and list(center.state_dict()) == ["center"]
