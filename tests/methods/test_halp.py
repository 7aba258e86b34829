# SPDX-License-Identifier: Apache-2.0
"""HaLP against its paper's formula, positive by positive, and its prototypes against the newest keys."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslkernels.methods import HaLP, MoCoV2
from sslkernels.models import ResNet


def halp(**options) -> HaLP:
    arguments = {"projection_dim": 4, "queue_size": 12, "newest": 9, "prototypes": 3, "generated": 7, **options}
    return HaLP(ResNet(1, (6,), (1,)), feature_dim=6, warm_up=0, **arguments).double()


def drawn(rows: int = 5) -> list[Tensor]:
    return [torch.rand(rows, 1, 6, 6, dtype=torch.float64) for _ in range(2)]


def slerp(k: Tensor, p: Tensor, t: float) -> Tensor:
    angle = (k @ p).acos()
    return (((1 - t) * angle).sin() * k + (t * angle).sin() * p) / angle.sin()


def farthest(k: Tensor, p: Tensor, p0: Tensor) -> float:
    """Halve the arc from k to p until the point is found that is as close to p as to p0."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        z = slerp(k, p, middle)
        low, high = (middle, high) if z @ p0 > z @ p else (low, middle)
    return low


def formula(keys: Tensor, prototypes: Tensor, others: Tensor, uniform: Tensor, hardness: float) -> Tensor:
    total, sums = 0, torch.zeros_like(keys)
    for i, k in enumerate(keys):
        nearest = int((prototypes @ k).argmax())
        for choice, u in zip(others[i].tolist(), uniform[i].tolist(), strict=True):
            p = prototypes[(nearest + choice) % len(prototypes)]
            z = slerp(k, p, (1 - hardness * u) * farthest(k, p, prototypes[nearest]))
            assert abs(z.norm() - 1) < 1e-9
            if int((prototypes @ z).argmax()) == nearest:
                total, sums[i] = total + 1, sums[i] + z
    assert 0 < total < others.numel()
    return sums / total


def test_positives_are_those_of_the_paper() -> None:
    torch.manual_seed(3)
    method = halp(prototypes=5, generated=40)
    method.prototypes.rows.copy_(F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1))
    keys = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    state = torch.get_rng_state()
    found = method.hallucinated(keys)
    torch.set_rng_state(state)
    others, uniform = torch.randint(1, 5, (6, 40)), torch.rand(6, 40, dtype=torch.float64)
    torch.testing.assert_close(found, formula(keys, method.prototypes.rows, others, uniform, 0.8))


def test_loss_is_moco_s_and_the_positives() -> None:
    method, views = halp(mu=1.5), drawn()
    method(views)
    method.after_step(0, 10)
    assert method.made
    out = method(views)
    query, key, positive = out["embeddings"]
    moco = MoCoV2.loss(method, query, key)
    expected = moco - 1.5 / 0.07 * (F.normalize(query, dim=1) * positive).sum()
    torch.testing.assert_close(out["loss"], expected)
    assert positive.any() and not positive.requires_grad
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    assert all(gradient.any() for gradient in torch.autograd.grad(out["loss"], weights))


def test_until_the_warm_up_ends_it_is_moco() -> None:
    method, views = halp(), drawn()
    method.warm_up = 2
    for step in range(2):
        out = method(views)
        torch.testing.assert_close(out["loss"], MoCoV2.loss(method, *out["embeddings"][:2]))
        method.after_step(step, 10)
        assert not method.made
    method.after_step(2, 10)
    assert method.made


def test_prototypes_are_the_centres_of_the_newest_keys() -> None:
    method = halp(newest=6, queue_size=9, projection_dim=3)
    around = torch.eye(3, dtype=torch.float64).repeat_interleave(2, 0)
    tilted = F.normalize(around + torch.tensor([[0.1, -0.2, 0.15]] * 6).double(), dim=1)
    method.queue.enqueue(-tilted[:4])  # three of these are old
    method.queue.enqueue(tilted[[0, 2, 4, 1, 3, 5]])
    centres = set()
    for step in range(0, 400, 10):
        method.after_step(step, 1000)
        found = {tuple(round(x, 6) for x in row) for row in method.prototypes.rows.tolist()}
        centres |= found
        again = method.prototypes.rows.clone()
        method.after_step(step, 1000)
        assert torch.equal(method.prototypes.rows, again)
    assert {tuple(round(x, 6) for x in row) for row in tilted[::2].tolist()} <= centres
    assert all(max(row) > 0 for row in centres)  # none of the old keys


def test_prototypes_stand_between_two_k_means_and_are_saved() -> None:
    method = halp(every=3)
    method.after_step(0, 10)
    before = method.prototypes.rows.clone()
    method.queue.enqueue(torch.randn(9, 4, dtype=torch.float64))
    for step in (1, 2):
        method.after_step(step, 10)
        assert torch.equal(method.prototypes.rows, before)
    again = halp()
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.prototypes.rows, before) and again.made
    method.after_step(3, 10)
    assert not torch.equal(method.prototypes.rows, before)


def test_keys_on_and_opposite_to_a_prototype_have_finite_positives() -> None:
    method = halp(projection_dim=2)
    angles = torch.tensor([0.0, 2.0, math.pi])
    method.prototypes.rows.copy_(torch.stack([angles.cos(), angles.sin()], 1))
    keys = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]).double()
    assert method.hallucinated(keys).isfinite().all()


def test_more_prototypes_than_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="HaLP: prototypes is 10 and k-means has 9 keys; pass a larger newest"):
        halp(prototypes=10)
