# SPDX-License-Identifier: Apache-2.0
"""The cost of a training step is measured."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("lightning")

from sslkernels import EMA  # noqa: E402
from sslkernels.data import TwoViews  # noqa: E402
from sslkernels.methods import Auxiliary, DINOv2, MoCoV2, SimCLR  # noqa: E402
from sslkernels.models import ResNet, ViT  # noqa: E402
from sslkernels.terms import Rotation  # noqa: E402
from sslkernels.training.measure import BEYOND, step_costs  # noqa: E402


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_costs_of_both_backends_leave_the_method_alone(autocast):
    method = SimCLR(ResNet(1, (4,), (1,)), feature_dim=4)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    costs = step_costs(method, TwoViews(1, (8, 8)), torch.rand(32, 1, 8, 8), ["cpu", "reference"], autocast)
    assert set(costs) == {"cpu", "reference"}
    for cost in costs.values():
        assert 0 < cost.loss_share < 1
        assert cost.loss_milliseconds / 1e3 == pytest.approx(cost.loss_share * 32 / cost.images_per_second)
        assert cost.update_milliseconds is cost.update_share is None  # SimCLR moves nothing after a step
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.backend is None and all(weight.grad is None for weight in method.parameters())


def test_a_term_leaves_a_method_without_an_update():
    method = Auxiliary(SimCLR(ResNet(1, (4,), (1,)), feature_dim=4), Rotation(4))
    cost = step_costs(method, TwoViews(1, (8, 8)), torch.rand(16, 1, 8, 8), ["reference"], None)["reference"]
    assert cost.update_milliseconds is cost.update_share is None
    assert Auxiliary(MoCoV2(ResNet(1, (4,), (1,)), feature_dim=4, queue_size=8), Rotation(4)).moves


def test_a_loss_may_leave_rows_unused():
    """DINOv2 gives patches to a comparison that is off by default."""
    vit = ViT((8, 8), patch_size=4, width=8, depth=1, heads=2, class_token=True, mask_token=True)
    method = DINOv2(vit, feature_dim=8, prototypes=4, hidden_dim=8, projection_dim=4)
    cost = step_costs(method, TwoViews(1, (8, 8)), torch.rand(4, 1, 8, 8), ["reference"], None)["reference"]
    assert cost.loss_milliseconds > 0


class Taught(SimCLR):
    """Moves a teacher, and a queue that takes the keys of a batch once."""

    moves: list[tuple[int, str | None, str | None]] = []

    def __init__(self):
        super().__init__(ResNet(1, (4,), (1,)), feature_dim=4)
        self.teacher = EMA(self.backbone, momentum=0.9, schedule="linear")
        self.keys = None

    def forward(self, views):
        self.keys = views[0]
        return super().forward(views)

    def after_step(self, step, total_steps):
        assert self.keys is not None
        self.keys = None
        self.moves.append((step, self.backend, self.teacher.backend))
        self.teacher.update(self.backbone, step, total_steps)


def test_the_update_is_timed_on_both_backends_and_its_steps_go_on(monkeypatch):
    monkeypatch.setattr(Taught, "moves", [])
    method = Taught()
    before = {name: value.clone() for name, value in method.state_dict().items() if isinstance(value, torch.Tensor)}
    costs = step_costs(method, TwoViews(1, (8, 8)), torch.rand(32, 1, 8, 8), ["cpu", "reference"], None)
    for cost in costs.values():
        assert 0 < cost.update_share < 1
        assert cost.update_milliseconds / 1e3 == pytest.approx(cost.update_share * 32 / cost.images_per_second)
    assert {(own, teachers) for _, own, teachers in Taught.moves} == {("cpu", None), ("reference", "reference")}
    for backend in ("cpu", "reference"):
        steps = [step for step, own, _ in Taught.moves if own == backend]
        # Whole steps are counted from 0, updates alone from where no teacher has moved yet.
        assert steps.count(0) == steps.count(BEYOND) == 1
        assert all(later == earlier + 1 or later == BEYOND for earlier, later in zip(steps, steps[1:], strict=False))
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items() if name in before)
    assert method.teacher.step == -1 and method.keys is None
