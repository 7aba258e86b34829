# SPDX-License-Identifier: Apache-2.0
"""Measures that know no scale have one value at every scale, also where squares leave the range of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sslkernels.evaluation import (
    alpha_req,
    augmentation_covariance,
    cca,
    clustering,
    conditional_independence,
    encode,
    few_shot,
    fine_tune,
    knn,
    lidar,
    linear_probe,
    matrix_entropy,
    mutual_information_bound,
    nearest,
    rotation_probe,
    weighted_knn,
)

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(60) % 3
ROWS = torch.randn(60, 6, generator=GENERATOR, dtype=torch.float64) + 2 * torch.eye(6, dtype=torch.float64)[LABELS]
OTHERS = ROWS + torch.randn(60, 6, generator=GENERATOR, dtype=torch.float64)
VIEWS = ROWS.view(20, 3, 6)
# Powers of two round nothing. Norms below 1e-12 are special to kernels, and beyond the others squares leave float64.
SCALES = [2.0**power for power in (-47, -700, 660)]
MEASURES: dict[str, Callable[[float], Any]] = {
    "alpha_req": lambda scale: alpha_req(scale * ROWS),
    "matrix_entropy": lambda scale: matrix_entropy(scale * ROWS),
    "cca": lambda scale: cca(scale * ROWS, OTHERS / scale).correlations,
    "conditional_independence": lambda scale: conditional_independence(scale * ROWS, OTHERS, LABELS),
    "numbers for labels": lambda scale: conditional_independence(ROWS, OTHERS, scale * ROWS[:, :2]),
    "augmentation_covariance": lambda scale: augmentation_covariance(scale * VIEWS).ratio,
    "mutual_information_bound": lambda scale: mutual_information_bound(scale * ROWS, scale * OTHERS),
    "nearest": lambda scale: nearest(scale * ROWS, scale * OTHERS, 5),
}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", MEASURES)
def test_a_scale_changes_nothing(name, scale):
    np.testing.assert_allclose(MEASURES[name](scale), MEASURES[name](1.0), rtol=1e-9)


@pytest.mark.parametrize("probe", [few_shot, knn, weighted_knn, lambda *rows: clustering(*rows[:2])])
def test_lengths_of_rows_do_not_change_their_directions(probe):
    rows, others = ROWS.float(), OTHERS.float()
    lengths = 2.0 ** -torch.arange(40.0, 100.0)[:, None]
    assert probe(lengths * rows, LABELS, lengths.flip(0) * others, LABELS) == probe(rows, LABELS, others, LABELS)


def test_variances_within_range_are_as_large_as_they_are():
    between, within, _ = augmentation_covariance(VIEWS)
    for scale in (2.0**-500, 2.0**500):
        found = augmentation_covariance(scale * VIEWS)
        torch.testing.assert_close(found.between, between * scale * scale)
        torch.testing.assert_close(found.within, within * scale * scale)
    assert augmentation_covariance(1e200 * VIEWS).between.isposinf().all()


def test_lidar_tends_to_a_limit_at_either_end_of_scales():
    assert lidar(1e200 * VIEWS) == pytest.approx(lidar(1e6 * VIEWS), rel=1e-6)
    assert lidar(1e-200 * VIEWS) == pytest.approx(lidar(1e-10 * VIEWS), rel=1e-6)
    few = torch.randn(3, 2, 6, generator=GENERATOR, dtype=torch.float64)  # their views span three of six directions
    assert 1 <= lidar(1e9 * few) <= 6


def test_near_rows_of_float64_are_told_apart():
    angles = torch.tensor([[1.0, 1e-5], [1.0, 5e-6]], dtype=torch.float64)
    assert nearest(angles, torch.tensor([[1.0, 0.0]], dtype=torch.float64), 1).item() == 1


@pytest.mark.parametrize("probe", [few_shot, linear_probe, knn, weighted_knn])
def test_rows_that_vanish_in_float32_are_refused(probe):
    rows = ROWS.clone()
    rows[7] *= 1e-60
    with pytest.raises(ValueError, match="features holds rows that are zeros in float32, in which it computes; scale"):
        probe(rows, LABELS, rows, LABELS)
    rows[7] = 0
    probe(rows, LABELS, rows, LABELS)


class Gives(nn.Module):
    """An encoder with an output of another kind."""

    def __init__(self, output: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.output = output

    def forward(self, images: torch.Tensor) -> Any:
        return self.output(images.flatten(1))


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        (lambda rows: (rows, rows), TypeError, "backbone gives a tuple; pass one that gives a tensor (N, D), such"),
        (lambda rows: {"last": rows}, TypeError, "backbone gives a dict; pass one"),
        (lambda rows: rows.numpy(), TypeError, "backbone gives a ndarray; pass one"),
        (lambda rows: None, TypeError, "backbone gives a NoneType; pass one"),
        (lambda rows: rows.T, ValueError, "backbone gives shape (16, 60) for 60 samples; pass one that gives (N, D)"),
        (lambda rows: rows.sum(), ValueError, "backbone gives shape () for 60 samples; pass one that gives (N, D)"),
    ],
)  # fmt: skip
def test_an_encoder_that_gives_no_features_is_one_sentence(output, error, words):
    images = torch.zeros(60, 1, 4, 4)
    calls = {
        "encode": lambda encoder: encode(encoder, images),
        "fine_tune": lambda encoder: fine_tune(encoder, images, LABELS, images, LABELS),
        "rotation_probe": lambda encoder: rotation_probe(encoder, images, images),
    }
    for function, call in calls.items():
        with pytest.raises(error) as caught:
            call(Gives(output))
        assert words in str(caught.value) and str(caught.value).split(":")[0] in (function, "encode")
