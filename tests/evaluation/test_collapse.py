# SPDX-License-Identifier: Apache-2.0
"""The spread of features is right on rows whose answer is known, and a collapse is said in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sslkernels.evaluation import collapse_warning, feature_spread, targets_warning
from sslkernels.methods.prototyped import usage


def rows(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def dense(features: np.ndarray) -> tuple[float, float]:
    unit = features / np.sqrt((features**2).sum(1, keepdims=True))
    std = np.mean([math.sqrt(np.mean((column - column.mean()) ** 2)) for column in unit.T]) * math.sqrt(unit.shape[1])
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(features @ features.T), 0))
    shares = values[values > 0] / values.sum()
    return std, math.exp(-sum(share * math.log(share) for share in shares))


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (9, 1), (1, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_both_are_their_formula(shape, dtype):
    features = (rows(*shape).abs() + 0.3).to(dtype).requires_grad_()
    std, rank = dense(features.detach().double().numpy())
    spread = feature_spread(features)
    assert spread.feature_std == pytest.approx(std, abs=1e-6)
    assert spread.effective_rank == pytest.approx(rank, abs=1e-5)
    assert type(spread.feature_std) is type(spread.effective_rank) is float


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rows_in_all_directions_have_one_and_every_rank(scale):
    assert feature_spread(rows(20_000, 8) * scale) == pytest.approx((1, 8), abs=0.02)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_beyond_float64_change_nothing(scale):
    assert feature_spread(rows(40, 6).double() * scale) == pytest.approx(feature_spread(rows(40, 6).double()), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_rows_that_are_alike_have_none_and_rank_one(scale, noise):
    """This holds for rows that differ by a rounding too."""
    spread = feature_spread((0.3 * torch.ones(64, 32) + noise * rows(64, 32)) * scale)
    assert spread == pytest.approx((0, 1), abs=1e-3)
    assert collapse_warning([0.5, spread.feature_std], [20.0, spread.effective_rank])


def test_few_directions_show_in_the_rank_alone():
    spread = feature_spread(rows(500, 3) @ rows(3, 64, seed=1))
    assert spread.feature_std > 0.9 and 1 < spread.effective_rank <= 3


def test_zeros_have_nothing_and_what_is_not_finite_is_nan():
    assert feature_spread(torch.zeros(4, 3)) == (0, 0)
    for value in (float("nan"), float("inf")):
        features = rows(4, 3)
        features[1, 2] = value
        assert all(map(math.isnan, feature_spread(features)))


def test_no_rows_and_no_matrix_get_a_sentence():
    with pytest.raises(ValueError, match="feature_spread: features has no row; pass at least one."):
        feature_spread(torch.ones(0, 3))
    with pytest.raises(ValueError, match=r"feature_spread: features has shape \(2, 3, 4\); expected \(N, D\)"):
        feature_spread(torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("stds", "ranks", "warned"),
    [
        ([0.6, 0.5], [30.0, 25.0], False),
        ([0.03, 0.027], [1.8, 1.6], False),  # a ViT's values
        ([0.1, 0.019], [30.0, 25.0], True),
        ([0.6, 0.5], [5.0, 1.4], True),
        ([0.6, 0.05], [30.0, 25.0], True),  # less than a tenth is left
        ([0.6, 0.5], [30.0, 2.9], True),
        ([0.001, 0.5], [1.0, 25.0], False),  # it recovered
        ([None, None, 0.6, 0.5], [None, None, 30.0, 25.0], False),
        ([None, 0.01], [None, 1.1], True),
        ([None], [None], False),
        ([0.6, float("nan")], [30.0, float("nan")], False),  # the loss says so already
        ([], [], False),
    ],
)
def test_a_warning_comes_where_the_last_values_are_low(stds, ranks, warned):
    warning = collapse_warning(stds, ranks)
    assert (warning is not None) == warned
    if warning:
        assert f"{stds[-1]:.3f}" in warning and f"{ranks[-1]:.1f}" in warning
        assert "the features have collapsed" in warning and "lower --lr" in warning and "\n" not in warning


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        (10 * torch.eye(8), None),  # each sample its own prototype
        (1e-3 * rows(64, 8), "the teacher's targets say the same of all samples, with 8.0 prototypes at once"),
        (torch.tensor([9.0, 9.0, 0, 0, 0, 0, 0, 0]).repeat(64, 1), "all samples, with 2.0 prototypes at once"),
        (torch.tensor([9.0, 0, 0, 0]).repeat(64, 1), "the teacher's targets have collapsed, one prototype takes 100%"),
        (
            torch.cat([9 * torch.eye(4), torch.tensor([[9.0, 0, 0, 0]]).repeat(60, 1)]),
            "takes 95% of them; lower --lr",
        ),
    ],
)
def test_targets_that_teach_nothing_are_said_in_words(logits, words):
    figures = {name: value.item() for name, value in usage(logits, torch.eye(logits.shape[1]), 1.0, None).items()}
    told, of_patches = targets_warning(figures), targets_warning({f"patch_{name}": figures[name] for name in figures})
    assert targets_warning({"loss": 1.0}) is None
    assert (told, of_patches) == (None, None) if words is None else (words in told and "of patches" in of_patches)
    assert told is None or told.endswith(".")
