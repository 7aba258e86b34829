# SPDX-License-Identifier: Apache-2.0
"""The cost of a step, measured."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

from sslkernels.data import TwoViews  # noqa: E402
from sslkernels.methods import SimCLR  # noqa: E402
from sslkernels.models import ResNet  # noqa: E402
from sslkernels.training.measure import step_costs  # noqa: E402


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_costs_of_both_backends_leave_the_method_alone(autocast):
    method = SimCLR(ResNet(1, (4,), (1,)), feature_dim=4)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    costs = step_costs(method, TwoViews(1, (8, 8)), torch.rand(32, 1, 8, 8), ["cpu", "reference"], autocast)
    assert set(costs) == {"cpu", "reference"}
    for cost in costs.values():
        assert 0 < cost.loss_share < 1
        assert cost.loss_milliseconds / 1e3 == pytest.approx(cost.loss_share * 32 / cost.images_per_second)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.backend is None and all(weight.grad is None for weight in method.parameters())
