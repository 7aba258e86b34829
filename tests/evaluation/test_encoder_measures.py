# SPDX-License-Identifier: Apache-2.0
"""What is learned by heart, how images were turned, which augmentation is best, and what a copy learns."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from sslkernels.data import TwoViews, load
from sslkernels.evaluation import fine_tune, rotation_probe, search_augmentations, ssl_memorization
from sslkernels.methods import SimCLR
from sslkernels.models import ResNet, resnet_small


def test_memorization_is_the_formula(monkeypatch):
    monkeypatch.setattr("sslkernels.evaluation.memorization.AT_ONCE", 50)
    encoders = [nn.Sequential(nn.Flatten(), nn.Linear(16, 5)) for _ in range(5)]
    views = [torch.randn(30, 1, 4, 4) for _ in range(4)]

    def aligned(encoder: nn.Module) -> np.ndarray:
        rows = [encoder(view).detach().double().numpy() for view in views]
        return np.mean([np.linalg.norm(a - b, axis=1) for a, b in combinations(rows, 2)], axis=0)

    scores = np.mean([aligned(g) for g in encoders[2:]], 0) - np.mean([aligned(f) for f in encoders[:2]], 0)
    mean, found = ssl_memorization(encoders[:2], encoders[2:], views)
    np.testing.assert_allclose(found.numpy(), scores / np.abs(scores).max(), atol=1e-5)
    assert mean == pytest.approx(found.mean().item())
    assert ssl_memorization(encoders[:1], encoders[:1], views).scores.abs().max() == 0


def test_what_has_no_memory_is_refused():
    view, encoder = torch.randn(3, 4), nn.Identity()
    for given, said in [
        (([], [encoder], [view, view]), "encoders_with is empty"),
        ((encoder, [encoder], [view, view]), "encoders_with is a Identity"),
        (([encoder], [3], [view, view]), r"encoders_without\[0\] is a int"),
        (([encoder], [encoder], [view]), "views has length 1"),
        (([encoder], [encoder], [view, view[:2]]), r"views\[1\] has shape \(2, 4\)"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^ssl_memorization: {said}"):
            ssl_memorization(*given)


class Unit(nn.Module):
    """Features of unit length, so that encoders of unlike scale can be compared."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.backbone(images), dim=1)


@pytest.mark.slow
def test_the_half_that_was_trained_on_is_remembered():
    """Views of digits that an encoder has seen lie nearer to it than to one that has seen the other half.

    All views may lie nearer to one of the two encoders, so each half is scored with its own encoder as f: the means of
    both sum to 0.34 here, and with two other seeds to 0.10 and 0.09.
    """
    torch.set_num_threads(1)
    images, views = load("digits").inputs[:64], TwoViews(1, (8, 8))
    halves = images.split(32)

    def trained(rows: torch.Tensor) -> nn.Module:
        torch.manual_seed(0)
        method = SimCLR(ResNet(1, (16, 32, 64), (1, 1, 1)), feature_dim=64)
        optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
        for _ in range(150):
            optimizer.zero_grad()
            method(views(rows))["loss"].backward()
            optimizer.step()
        return Unit(method.backbone)

    first, second = map(trained, halves)
    torch.manual_seed(9)
    shown = [view for _ in range(5) for view in views(images)]
    own = ssl_memorization([first], [second], shown).scores[:32].mean()
    others = ssl_memorization([second], [first], shown).scores[32:].mean()
    assert own + others > 0


def test_turns_are_seen_in_pixels_but_not_in_means():
    digits = load("digits")
    images, others = digits.inputs[:150], digits.test_inputs[:60]
    assert rotation_probe(nn.Flatten(), images, others) > 0.6
    mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert rotation_probe(mean, images, others) == pytest.approx(0.25, abs=0.1)
    for bad, said in [(images[..., :4], "square"), (images[:0], "at least one"), (images[0], r"shape \(1, 8, 8\)")]:
        with pytest.raises(ValueError, match=f"^rotation_probe: test_images has .*{said}"):
            rotation_probe(mean, images, bad)


def test_a_search_tries_each_setting_once_and_keeps_the_best():
    settings = {"strength": list(range(10)), "count": (1, 2, 3)}
    calls = []

    def evaluate(strength: int, count: int) -> float:
        calls.append((strength, count))
        return float("nan") if count == 3 else strength * count

    assert search_augmentations(evaluate, settings, 99).best == {"strength": 9, "count": 2}
    assert len(set(calls)) == len(calls) == 30
    first, _ = search_augmentations(evaluate, {"strength": [1, 2], "count": [1]}).tried[0]
    skipped = search_augmentations(
        lambda strength, count: float("nan") if strength == first["strength"] else -1.0,
        {"strength": [1, 2], "count": [1]},
    )
    assert skipped.score == -1  # a NaN that comes first does not stay
    found = search_augmentations(evaluate, settings, 7)
    again, other = (search_augmentations(evaluate, settings, 7, seed=seed) for seed in (0, 1))
    assert len(found.tried) == 7 and repr(found) == repr(again) != repr(other)  # NaN is not equal to itself
    for given, said in [
        ((evaluate, {}), "settings has nothing"),
        ((evaluate, {"strength": ()}), "settings has nothing"),
        ((lambda strength: None, {"strength": [1]}), "evaluate gave None"),
        ((3, settings), "evaluate is 3"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^search_augmentations: {said}"):
            search_augmentations(*given)


def test_a_copy_learns_and_the_backbone_stays():
    labels = torch.arange(2).repeat(40)
    rows = torch.randn(80, 6)
    rows[:, 3] = (labels - 0.5) * 4
    backbone = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU()).requires_grad_(False)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = torch.random.get_rng_state()
    found = fine_tune(backbone, rows, labels, rows, labels, shots=10, draws=2, lr=0.01)
    assert found > 0.95 and found == fine_tune(backbone, rows, labels, rows, labels, shots=10, draws=2, lr=0.01)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert fine_tune(backbone, rows, labels, rows, labels, shots=41) is None
    with pytest.raises(ValueError, match="^fine_tune: labels holds one class"):
        fine_tune(backbone, rows, labels * 0, rows, labels)


def test_all_of_the_weights_move():
    """Without a moving backbone these features tell nothing: the layer gives zeros for every row."""
    labels = torch.arange(2).repeat(40)
    rows = (labels - 0.5)[:, None] * 4 + 0.1 * torch.randn(80, 2)
    backbone = nn.Linear(2, 4)
    nn.init.zeros_(backbone.weight)
    assert fine_tune(backbone, rows, labels, rows, labels, draws=1, lr=0.1) == 1.0


def test_batchnorm_that_saw_few_steps_does_not_spoil_a_tuned_encoder():
    """Its running averages lag behind the weights: half of bright and dark images came out wrong."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    images = 0.3 * torch.rand(64, 1, 8, 8) + 0.5 * labels[:, None, None, None]
    assert fine_tune(resnet_small(), images, labels, images, labels, shots=10, draws=1) == 1
