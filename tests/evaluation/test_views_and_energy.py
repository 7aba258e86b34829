# SPDX-License-Identifier: Apache-2.0
"""Measures of several views, of the energy of directions and of information are those of their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from sslkernels.evaluation import (
    alignment,
    augmentation_covariance,
    energy,
    hyperspherical_energy,
    layer_energies,
    lidar,
    mutual_information_bound,
    uniformity,
    views,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_covariances(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    between = np.cov(z.mean(1).T, bias=True)
    within = np.mean([np.cov(sample.T, bias=True) for sample in z], 0)
    return np.atleast_2d(between), np.atleast_2d(within)


def plain_energy(w: np.ndarray, s: float) -> float:
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    found = []
    for i in range(len(unit)):
        for j in range(len(unit)):
            if i != j:
                apart = math.sqrt(((unit[i] - unit[j]) ** 2).sum())
                found.append(apart**-s if s else -math.log(apart))
    return sum(found) / len(found)


@pytest.mark.parametrize("shape", [(20, 4, 5), (4, 3, 9), (5, 2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_views_have_their_formulas(shape, dtype):
    z = (normal(shape[0], 1, shape[2]) + 0.3 * normal(*shape, seed=1) + 2).to(dtype).requires_grad_()
    between, within = plain_covariances(z.detach().double().numpy())
    found = augmentation_covariance(z)
    np.testing.assert_allclose(found.between, np.linalg.eigvalsh(between)[::-1].clip(0), atol=1e-12)
    np.testing.assert_allclose(found.within, np.linalg.eigvalsh(within)[::-1].clip(0), atol=1e-12)
    assert found.ratio == pytest.approx(np.trace(between) / np.trace(within), rel=1e-9)
    values = scipy.linalg.eigh(between, within + 1e-3 * np.eye(shape[2]), eigvals_only=True).clip(0)
    shares = values / values.sum() + 1e-8
    assert lidar(z, 1e-3) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_the_two_covariances_make_up_the_whole():
    z = normal(30, 4, 6)
    found = augmentation_covariance(z)
    whole = np.cov(z.double().flatten(0, 1).numpy().T, bias=True)
    assert float(found.between.sum() + found.within.sum()) == pytest.approx(np.trace(whole), rel=1e-12)
    assert augmentation_covariance(normal(2000, 5, 6)).ratio == pytest.approx(1 / 4, rel=0.05)  # noise alone


def test_lidar_counts_directions_that_tell_samples_apart():
    """Rows differ in all sixteen directions, samples in three."""
    samples = torch.cat([normal(400, 3), torch.zeros(400, 13)], 1)
    z = samples[:, None] + 0.3 * normal(400, 32, 16, seed=1)
    assert lidar(z) == pytest.approx(3, abs=0.5)
    assert lidar(samples[:, None].expand(-1, 2, -1)) == pytest.approx(3, abs=0.05)


def test_hostile_views():
    alike = torch.full((4, 3, 5), 0.1)
    assert lidar(alike) == 0 and math.isnan(augmentation_covariance(alike).ratio)
    assert augmentation_covariance(normal(4, 1, 5).expand(-1, 3, -1)).ratio == math.inf
    z = normal(4, 3, 5)
    z[1, 1, 1] = math.nan
    assert math.isnan(lidar(z)) and math.isnan(augmentation_covariance(z).ratio)
    assert augmentation_covariance(z).between.isnan().all()


@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_energy_is_its_formula(s, dtype):
    w = (normal(12, 7) * torch.arange(1, 13)[:, None]).to(dtype).requires_grad_()
    assert hyperspherical_energy(w, s) == pytest.approx(plain_energy(w.detach().double().numpy(), s), abs=1e-9)


def test_energies_that_are_known():
    assert hyperspherical_energy(torch.eye(9), 3) == pytest.approx(2**-1.5)
    assert hyperspherical_energy(normal(500, 400)) == pytest.approx(-math.log(2) / 2, abs=2e-3)
    assert hyperspherical_energy(torch.eye(4), 200) == pytest.approx(2**-100, rel=1e-9, abs=0)
    near = torch.tensor([[1.0, 0.0], [1.0, 1e-9]]).double()
    assert hyperspherical_energy(near, 1) == pytest.approx(1e9, rel=1e-6)  # products alone would say infinity
    assert hyperspherical_energy(torch.ones(3, 4)) == hyperspherical_energy(torch.ones(3, 4), 1) == math.inf
    assert hyperspherical_energy(torch.cat([torch.eye(3), torch.zeros(2, 3)]), 2) == pytest.approx(0.5)
    assert math.isnan(hyperspherical_energy(torch.eye(3)[:2] * torch.tensor([[1.0], [0.0]])))
    assert math.isnan(hyperspherical_energy(torch.tensor([[1.0, math.nan], [0.0, 1.0], [1.0, 0.0]])))
    for scale in (1e-30, 1e30):
        assert hyperspherical_energy(scale * torch.eye(3), 2) == pytest.approx(0.5)


def test_energy_of_layers_takes_filters_as_rows():
    net = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 4, 2), nn.Linear(5, 1))
    found = layer_energies(net, 1)
    assert list(found) == ["0", "2"]
    assert found["0"] == pytest.approx(plain_energy(net[0].weight.detach().double().flatten(1).numpy(), 1), rel=1e-9)
    filters = net[2].weight.detach().double().transpose(0, 1).flatten(1)
    assert found["2"] == pytest.approx(plain_energy(filters.numpy(), 1), rel=1e-9)


def test_blocks_and_strides_change_nothing(monkeypatch):
    z, w = normal(20, 4, 12)[..., ::2], normal(30, 12)[:, ::2]
    w[3] = w[4] * (1 + 1e-6)  # a near pair
    w[4, 0] += 1e-6
    before = lidar(z), augmentation_covariance(z).ratio, hyperspherical_energy(w)
    monkeypatch.setattr(views, "BLOCK", 60)
    monkeypatch.setattr(energy, "BLOCK", 60)
    after = lidar(z), augmentation_covariance(z).ratio, hyperspherical_energy(w)
    assert after == pytest.approx(before, rel=1e-10)


def test_the_bound_on_information_is_log_n_less_the_loss():
    z0 = normal(50, 8)
    z1 = z0 + 0.5 * normal(50, 8, seed=1)
    u0, u1 = (z.double().numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (z0, z1))
    logits = u0 @ u1.T / 0.2
    loss = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert mutual_information_bound(z0.requires_grad_(), z1, 0.2) == pytest.approx(math.log(50) - loss, abs=1e-5)
    assert mutual_information_bound(z0, z0, 1e-3) == pytest.approx(math.log(50), abs=1e-5)  # never above
    assert mutual_information_bound(z0, z1.roll(1, 0)) < 0
    assert mutual_information_bound(z0[:1], z1[:1]) == 0
    assert math.isnan(mutual_information_bound(z0 * math.nan, z1))


def test_pairs_and_spread_are_those_of_the_losses():
    z = torch.eye(4)
    assert float(alignment(z, z.flip(0))) == pytest.approx(2) and float(uniformity(z)) == pytest.approx(-4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lidar(normal(4, 5)), r"lidar: views has shape \(4, 5\); expected \(n, q, D\), q views of each of n"),
        (lambda: lidar(normal(4, 1, 5)), r"lidar: views has shape \(4, 1, 5\); pass at least two views of each sample"),
        (lambda: lidar(normal(1, 4, 5)), r"lidar: views has shape \(1, 4, 5\); pass at least 2 samples"),
        (lambda: lidar(normal(2, 2, 5), 0), "lidar: delta is 0; pass a finite number above 0"),
        (lambda: hyperspherical_energy(normal(1, 5)), r"hyperspherical_energy: w has shape \(1, 5\); pass at least 2"),
        (lambda: hyperspherical_energy(normal(2, 5), -1), "hyperspherical_energy: s is -1; pass a finite number of at"),
        (lambda: mutual_information_bound(normal(2, 5), normal(2, 5), 0), "temperature is 0.0, whose inverse is no"),
    ],
)
def test_errors_say_what_to_pass(call, said):
    with pytest.raises(ValueError, match=said):
        call()
