# SPDX-License-Identifier: Apache-2.0
"""The probes are right on rows whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sslkernels.evaluation import calibrate_batchnorm, encode, few_shot, knn, linear_probe, nearest, weighted_knn

LABELS = torch.arange(3).repeat(20)
CLUSTERS = torch.eye(3)[LABELS] + 0.01 * torch.arange(60)[:, None] / 60


@pytest.mark.parametrize("probe", [few_shot, linear_probe, knn])
def test_separated_classes_are_found_and_noise_is_chance(probe):
    assert probe(CLUSTERS, LABELS, CLUSTERS * 7, LABELS) == 1.0
    noise = torch.randn(60, 3)
    assert probe(noise, LABELS, torch.randn(600, 3), LABELS.repeat(10)) == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("probe", [few_shot, linear_probe])
def test_draws_are_fixed_and_too_few_shots_give_none(probe):
    rows = torch.randn(60, 3) + CLUSTERS
    assert probe(rows, LABELS, rows, LABELS) == probe(rows, LABELS, rows, LABELS)
    assert probe(rows, LABELS, rows, LABELS, shots=21) is None


def test_one_shot_is_the_nearest_labelled_row():
    rows, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    queries = torch.tensor([[9.0, 1.0], [1.0, 3.0], [2.0, 1.0]])
    assert few_shot(rows, labels, queries, torch.tensor([0, 1, 1]), shots=1) == pytest.approx(2 / 3)


def test_one_shot_does_not_depend_on_the_scale_of_rows():
    rows, queries = 1e30 * torch.eye(3), 1e30 * torch.eye(3).flip(0)  # squares leave the range of float32
    assert few_shot(rows, torch.arange(3), queries, torch.arange(3).flip(0), shots=1) == 1.0


@pytest.mark.parametrize("probe", [few_shot, linear_probe, knn, weighted_knn])
def test_rows_beyond_float32_are_refused(probe):
    rows = 1e200 * CLUSTERS.double()
    with pytest.raises(ValueError, match="features holds numbers that are not finite in float32"):
        probe(rows, LABELS, rows, LABELS)


def test_knn_is_the_majority():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert nearest(rows, query, 3).tolist() == [[0, 1, 2]]
    assert knn(rows, labels, query, torch.tensor([1]), k=3) == 1.0
    assert knn(rows, labels, query, torch.tensor([0]), k=1) == 1.0
    assert knn(rows, labels, query, torch.tensor([0]), k=99) == 1.0  # two votes against two


def test_calibration_sets_the_statistics_of_the_images_and_nothing_else():
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)).eval()
    images = torch.randn(512, 1, 2, 2) * 3 + 5
    calibrate_batchnorm(backbone, images)
    norm = backbone[1]
    torch.testing.assert_close(norm.running_mean, images.flatten(1).mean(0))
    assert norm.momentum == 0.1 and not backbone.training
    features = encode(backbone, images)
    torch.testing.assert_close(features.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(4), atol=1e-2, rtol=0)


@pytest.mark.parametrize("count", [257, 300, 513])
def test_a_few_samples_more_than_a_batch_do_not_count_as_one(count):
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4))
    images = torch.randn(count, 1, 2, 2)
    calibrate_batchnorm(backbone, images)
    torch.testing.assert_close(backbone[1].running_mean, images.flatten(1).mean(0), atol=0.03, rtol=0)
    assert backbone[1].num_batches_tracked == count // 256


def test_encoding_leaves_the_encoder_as_it_was():
    backbone = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.BatchNorm1d(4).eval())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    encode(backbone, torch.randn(10, 1, 2, 2))
    assert [part.training for part in (backbone, *backbone)] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
